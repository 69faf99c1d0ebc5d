"""Replies: exact JSON, entity tags (RFC 9110 §8.8.3) and conditional requests (§13)."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast
from urllib.parse import quote

from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send, Serializer

from service import errors
from service.http.request import StrictRequest
from service.values import Versioned, content_tag, encode_json, reply_headers

T = TypeVar("T")
BODYLESS_STATUSES = {204, 304}
"""The statuses of replies without content."""
UNQUOTABLE = re.compile(r'[^ -~]|["\\%]')
ENTITY_TAG = re.compile(r'((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


V = TypeVar("V", bound=Versioned)


class Reply(Response[T]):
    """The application's response class, without cookies and background tasks.

    Decimals in JSON documents keep their digits.
    """

    def __init__(
        self,
        content: T,
        *,
        status_code: int | None = None,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        **_: Any,
    ) -> None:
        """Set only what `to_asgi_response` reads; Litestar also checks the type of the headers (2 µs)."""
        self.content = content
        self.status_code = status_code
        self.headers = cast("dict[str, str]", headers or {})
        self.media_type = media_type

    def render(self, content: Any, media_type: str, enc_hook: Serializer | None = None) -> bytes:
        if content is None or isinstance(content, bytes):
            return content or b""
        return encode_json(content)

    def to_asgi_response(
        self,
        app: Any,
        request: Any,
        *,
        media_type: str | None = None,
        status_code: int | None = None,
        headers: Mapping[str, str] | None = None,
        **_: Any,
    ) -> ASGIResponse:
        status = self.status_code or status_code or 200
        fields = {**headers, **self.headers} if headers else self.headers
        raw = [(_field_name(name), str(value).encode("latin-1")) for name, value in fields.items()]
        if status in BODYLESS_STATUSES:
            return RenderedReply(status, raw, b"")
        media_type = self.media_type or media_type or errors.JSON
        body = self.render(self.content, media_type)
        raw += ((b"content-type", _content_type(media_type)), (b"content-length", b"%d" % len(body)))
        return RenderedReply(status, raw, body)


@cache
def _field_name(name: str) -> bytes:
    return name.lower().encode()


@cache
def _content_type(media_type: str) -> bytes:
    charset = "; charset=utf-8" if media_type.startswith("text/") else ""
    return (media_type + charset).encode()


class RenderedReply(ASGIResponse):
    """A rendered reply. Litestar's own compares each header with all others (35 µs per request)."""

    def __init__(self, status: int, raw_headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status_code = status
        self.raw_headers = raw_headers
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def versioned_reply(request: StrictRequest, content: V, *, location: str | None = None) -> Reply[V]:
    """Return the resource with its `ETag`, or 304 without a body if the client has this version."""
    headers = reply_headers(content.version, location)
    if is_not_modified(request, headers["ETag"]):
        return Reply(None, status_code=304, headers=headers)  # type: ignore[arg-type]  # a 304 has no content
    return Reply(content, headers=headers)


def tagged_reply(request: StrictRequest, content: T) -> Reply[T]:
    """Return content without a version with an `ETag` of its bytes, or 304 if the client has the same."""
    body: Any = encode_json(content)
    headers = {"ETag": f'"{content_tag(body)}"'}
    if is_not_modified(request, headers["ETag"]):
        return Reply(None, status_code=304, headers=headers)  # type: ignore[arg-type]  # a 304 has no content
    return Reply(body, headers=headers)


def negotiate(request: StrictRequest, *offered: str) -> str:
    return errors.negotiate_media_type(request.header(b"accept") or "", *offered)


def attachment(name: str) -> str:
    """Return a `Content-Disposition` (RFC 6266) with an ASCII fallback and the exact name (RFC 8187)."""
    return f"attachment; filename=\"{UNQUOTABLE.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"


def if_match_versions(request: StrictRequest) -> list[int] | None:
    """Return the versions `If-Match` accepts, or None for any. Weak and unknown tags match nothing."""
    tags = if_match_tags(request)
    if tags is None:
        return None
    return [int(tag) for tag in tags if re.fullmatch("[1-9][0-9]{0,8}", tag)]


def if_match_tags(request: StrictRequest) -> list[str] | None:
    """Return the strong tags `If-Match` accepts, without quotes, or None for any."""
    header = request.header(b"if-match")
    if header is None or header.strip() == "*":
        return None
    return [tag[1:-1] for tag in ENTITY_TAG.findall(header) if tag.startswith('"')]


def is_not_modified(request: StrictRequest, current: str) -> bool:
    """Return whether `If-None-Match` of a GET matches the current version."""
    header = request.header(b"if-none-match") if request.method == "GET" else None
    if header is None:
        return False
    tags = [tag.removeprefix("W/") for tag in ENTITY_TAG.findall(header)]
    return header.strip() == "*" or current in tags
