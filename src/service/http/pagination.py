"""Keyset pagination with opaque cursors.

Without OFFSET and COUNT the last page costs as much as the first.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Annotated, Any, Generic, TypeVar, cast
from urllib.parse import urlencode

import msgspec
from litestar import Request
from litestar.params import QueryParameter
from msgspec import Meta, Struct

from service.database.lists import ROWS_MAX
from service.errors import InvalidCursor
from service.values import encode_json

LIMIT_MAX = ROWS_MAX - 1
LIMIT_DEFAULT = 50
PAGE_BYTES_MAX = 1_048_576
"""A page ends early, with its cursor, before its rows exceed this size as JSON. One row always fits."""
CURSOR_LENGTH_MAX = 512
CHECK_LENGTH = 4

Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX, description="Maximum number of entries.")]
Cursor = Annotated[
    str | None,
    QueryParameter(
        schema_extra={"maxLength": CURSOR_LENGTH_MAX},
        description="`next_cursor` of the previous page; valid for the same list and filters.",
    ),
]

T = TypeVar("T")
P = TypeVar("P")


class Page(Struct, Generic[T]):
    data: Annotated[list[T], Meta(max_length=LIMIT_MAX)]
    next_cursor: Annotated[
        Annotated[str, Meta(max_length=CURSOR_LENGTH_MAX)] | None,
        Meta(description="Cursor of the next page; null on the last page."),
    ]


class Pager(Generic[P]):
    """A request for one page of a list ordered by a unique position of type `P`.

    `position_type` is that type with bounds, so that a forged cursor carries no value the database rejects.
    """

    def __init__(
        self, request: Request[Any, Any, Any], limit: int, cursor: str | None, position_type: Any
    ) -> None:
        self._request = request
        query = request.query_params.items()  # with repeated names, in the order of the URL
        filters = sorted((name, value) for name, value in query if name not in {"limit", "cursor"})
        self._list_digest = hashlib.blake2b(
            repr((request.scope["path"], filters)).encode(), digest_size=32
        ).digest()
        self.limit = limit
        self.after: P | None = (
            None if cursor is None else self._decode(cursor[:CURSOR_LENGTH_MAX], position_type)
        )

    @property
    def fetch_limit(self) -> int:
        """Rows to fetch: one more than the limit, to detect a next page."""
        return self.limit + 1

    def page(self, rows: Sequence[T], position: Callable[[T], P]) -> Page[T]:
        """Return the page as it is sent: its entries are encoded once, to measure them and for the reply."""
        data, encoded = _fit(rows[: self.limit])
        return Page(cast("list[T]", msgspec.Raw(encoded)), self._next_cursor(rows, data, position))

    def open_page(self, rows: Sequence[T], position: Callable[[T], P], end: P) -> tuple[list[T], str]:
        """Return the page of a list that keeps growing, as it is sent, and its cursor, which is never None.

        `end` is the position up to which nothing is missing if the rows fit into the page.
        """
        data, encoded = _fit(rows[: self.limit])
        cursor = self._next_cursor(rows, data, position) or self._encode(msgspec.json.encode(end))
        return cast("list[T]", msgspec.Raw(encoded)), cursor

    def entries(self, rows: Sequence[T], position: Callable[[T], P]) -> tuple[Sequence[T], str | None]:
        """Return the page's entries and the next cursor, for a reply that is not JSON."""
        data, _ = _fit(rows[: self.limit])
        return data, self._next_cursor(rows, data, position)

    def _next_cursor(self, rows: Sequence[T], data: Sequence[T], position: Callable[[T], P]) -> str | None:
        more = len(rows) > len(data)
        return self._encode(msgspec.json.encode(position(data[-1]))) if more else None

    def next_url(self, cursor: str) -> str:
        """Return the next page's URL for a `Link` header (RFC 8288): a CSV file cannot carry a cursor."""
        query = [(name, value) for name, value in self._request.query_params.items() if name != "cursor"]
        return f"{self._request.scope['path']}?{urlencode([*query, ('cursor', cursor)])}"

    def _encode(self, content: bytes) -> str:
        return base64.urlsafe_b64encode(self._checksum(content) + content).rstrip(b"=").decode()

    def _decode(self, cursor: str, type_: Any) -> P:
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            position: P = msgspec.json.decode(raw[CHECK_LENGTH:], type=type_)
        except (binascii.Error, ValueError):
            raise InvalidCursor from None
        if cursor != self._encode(raw[CHECK_LENGTH:]):  # base64 has several spellings of some bytes
            raise InvalidCursor
        return position

    def _checksum(self, content: bytes) -> bytes:
        """Return a check value that ties a cursor to its list.

        It need not be secret: a forged cursor only reaches rows the caller may read anyway.
        """
        return hashlib.blake2b(content, key=self._list_digest, digest_size=CHECK_LENGTH).digest()


def _fit(rows: Sequence[T]) -> tuple[Sequence[T], bytes]:
    """Return the first rows that fit into a page, and at least one, with their JSON."""
    encoded = encode_json(rows)
    if len(encoded) <= PAGE_BYTES_MAX:
        return rows, encoded
    sizes = accumulate(len(encode_json(row)) + 1 for row in rows)
    count = max(1, sum(size <= PAGE_BYTES_MAX for size in sizes))
    return rows[:count], encode_json(rows[:count])
