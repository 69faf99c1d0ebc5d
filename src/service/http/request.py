"""Strict, exact JSON request bodies: one decode from bytes to the handler's Struct, without coercion."""

import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.types import Empty, HTTPReceiveMessage

from service.auth.keys import Key
from service.errors import (
    JSON,
    ClientClosedRequest,
    Detail,
    MalformedJson,
    TooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from service.events.journal import Author
from service.http.exchange import Exchange
from service.http.validation import (
    DETAILS_MAX,
    FieldBounds,
    field_bounds,
    find_errors,
    find_unstorable,
    pointer_step,
    to_detail,
)
from service.values import (
    DEPTH_MAX,
    NUMBER_DIGITS_MAX,
    decode_json,
    encode_json,
    nesting,
    parse_client_number,
)

T = TypeVar("T")

MERGE_PATCH = "application/merge-patch+json"
PATCH_TYPES = [JSON, MERGE_PATCH]
"""Media types of the body of a PATCH, for `Accept-Patch` (RFC 5789 §3.1)."""
ESCAPED_NUL = b"\\u0000"
SMALL_BODY_BYTES = 8192
"""A body up to this size is decoded in a few milliseconds, whatever it contains."""
SMALL_FIELD_BYTES = SMALL_BODY_BYTES // 2
LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % NUMBER_DIGITS_MAX)
NO_FIELDS = b"{}"
"""The body of a request whose body is optional and missing."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Windows programs such as PowerShell 5 write it before UTF-8; RFC 8259 §8.1 allows parsers to ignore it."""


class StrictRequest(Request[Key, None, State]):
    """A request with strict decoding.

    Litestar's own path goes through builtins: it loses digits and turns "5" into 5.
    """

    async def body(self) -> bytes:
        """Return the body. Raises `UnsupportedMediaType` before reading, `MalformedJson` if it is empty."""
        if self._body is Empty:
            self._body = self._connection_state.body = await self._checked_body()
        return self._body

    async def _checked_body(self) -> bytes:
        optional = self.route_handler.opt.get("optional_body")
        if optional and not self._announces_body:
            return NO_FIELDS
        declared = self.header(b"content-type")
        if declared is not None and declared != "application/json":
            self._check_media_type()
        self.reject_content_encoding()
        body = (await self._read_body()).removeprefix(BYTE_ORDER_MARK)
        if not body:
            if optional:
                return NO_FIELDS
            raise MalformedJson("The request body is empty")
        if declared is None:
            raise UnsupportedMediaType("The request has a body but no Content-Type; send application/json")
        return body

    @property
    def _announces_body(self) -> bool:
        """Return whether the headers announce a body (RFC 9112 §6.3)."""
        length = self.header(b"content-length")
        return self.header(b"transfer-encoding") is not None or length not in {None, "0"}

    def header(self, name: bytes) -> str | None:
        """Return a header with all its lines joined (RFC 9110 §5.3).

        Litestar's `headers` builds an index first (20 µs).
        """
        lines = [value for header, value in self.scope["headers"] if header == name]
        return b", ".join(lines).decode("latin-1") if lines else None

    async def _read_body(self) -> bytes:
        """Read the body. Raises `TooLarge` or `ClientClosedRequest`.

        Litestar's own path takes three generators (30 µs).
        """
        bytes_max = self.route_handler.resolve_request_max_body_size() or math.inf
        if int(self.header(b"content-length") or 0) > bytes_max:
            raise TooLarge
        body, more = bytearray(), True
        while more:
            message = cast("HTTPReceiveMessage", await self.receive())
            if message["type"] == "http.disconnect":
                raise ClientClosedRequest
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > bytes_max:
                raise TooLarge
        return bytes(body)

    async def json(self) -> Any:
        data = self.route_handler.parsed_data_field
        return decode(await self.body(), Any if data is None else data.annotation)

    def component(self, type_: type[T]) -> T:
        """Return the application's component of this type, for a handler that has a session too.

        With two dependencies, Litestar starts a task for each (100 µs per request).
        """
        component: T = self.app.state.components.by_type[type_]
        return component

    @property
    def author(self) -> Author:
        """The author of the changes made by this request."""
        return Author(self.user.id, Exchange.of(self.scope).request_id)

    @property
    def is_merge_patch(self) -> bool:
        return self.header(b"content-type") != "application/json" and self.content_type[0] == MERGE_PATCH

    def reject_content_encoding(self) -> None:
        """Reject a compressed body with `UnsupportedMediaType` (RFC 9110 §8.4)."""
        if (self.header(b"content-encoding") or "identity").strip().lower() not in {"identity", ""}:
            raise UnsupportedMediaType(
                "The request body must not be compressed", headers={"Accept-Encoding": "identity"}
            )

    def _check_media_type(self) -> None:
        media_type, options = self.content_type
        allowed = PATCH_TYPES if self.method == "PATCH" else [JSON]
        if media_type not in allowed:
            headers = {name: ", ".join(allowed) for name in ("Accept", "Accept-Patch")[: len(allowed)]}
            raise UnsupportedMediaType(f"The Content-Type must be {' or '.join(allowed)}", headers=headers)
        if options.get("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
            raise UnsupportedMediaType(
                "The charset of the request body must be UTF-8", headers={"Accept": ", ".join(allowed)}
            )


def decode(body: bytes, type_: Any) -> Any:
    """Decode and validate a body. Raises `MalformedJson`, or `ValidationFailed` with all errors."""
    try:
        if len(body) > SMALL_BODY_BYTES and (details := _find_oversized(body, type_)):
            raise ValidationFailed(details)
        if nesting(body) > DEPTH_MAX:
            raise MalformedJson(f"The request body is nested more than {DEPTH_MAX} levels deep")
        value = _decoder(type_)(body)
        suspicious = ESCAPED_NUL in body or (len(body) > NUMBER_DIGITS_MAX and LONG_NUMBER.search(body))
        if suspicious and (details := find_unstorable(decode_json(body))):
            raise ValidationFailed(details)
    except msgspec.ValidationError as error:
        raise ValidationFailed(_all_errors(body, type_) or [to_detail(error)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedJson from None
    return value


def _find_oversized(body: bytes, type_: Any) -> list[Detail]:
    """Return all errors of a body if one of its fields is too large to decode, else nothing."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:  # not an object, which the full check reports
        return []
    bounds, oversized = field_bounds(type_), {}
    large = {name: text for name, text in fields.items() if memoryview(text).nbytes > SMALL_FIELD_BYTES}
    for name, text in large.items():
        if problem := bounds.get(name, FieldBounds()).problem(bytes(text)):
            oversized[pointer_step(name)] = problem
    if not oversized:
        return []
    rest = {name: text for name, text in fields.items() if pointer_step(name) not in oversized}
    others = [error for error in _all_errors(encode_json(rest), type_) if error.field not in oversized]
    return [*(Detail(field, problem) for field, problem in oversized.items()), *others]


def _all_errors(body: bytes, type_: Any) -> list[Detail]:
    """Return all errors of a body.

    The list is empty if an integer is too long for Python; only msgspec's own error locates it.
    """
    try:
        value = decode_json(body)
    except msgspec.ValidationError:
        return []
    except msgspec.DecodeError:  # malformed JSON after the first invalid field
        raise MalformedJson from None
    details = {detail.field: detail for detail in [*find_unstorable(value), *find_errors(value, type_)]}
    return list(details.values())[:DETAILS_MAX]


@cache
def _decoder(type_: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(type_, float_hook=parse_client_number).decode
