"""Byte ranges of a download (RFC 9110 §14).

One range is served. A request for several gets the whole file, as the RFC allows.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from service.errors import Fault

RANGE = re.compile(r"bytes=\s*(?:(\d+)-(\d*)|-(\d+))\s*", re.ASCII | re.IGNORECASE)
"""The first and the last byte, of which the last may be missing, or the number of bytes at the end."""
DIGITS_MAX = 19
"""Digits of an offset that are read. No file is that large, and a header has room for 30,000 digits."""


class RangeNotSatisfiable(Fault):
    status, code, message = 416, "RANGE_NOT_SATISFIABLE", "The requested range is outside the file"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(headers={"Content-Range": f"bytes */{size_bytes}"})


class Range(NamedTuple):
    """The bytes from `start` up to but not including `end`."""

    start: int
    end: int

    def header(self, size_bytes: int) -> str:
        return f"bytes {self.start}-{self.end - 1}/{size_bytes}"


def requested_range(headers: Mapping[str, str], etag: str, size_bytes: int) -> Range | None:
    """Return the requested range, or None for the whole file. Raises `RangeNotSatisfiable`.

    Malformed ranges are ignored, as are ranges of an older version of the file (`If-Range`).
    """
    match = RANGE.fullmatch(headers.get("range", ""))
    if match is None or headers.get("if-range", etag) != etag:
        return None
    first, last, length = match.groups()
    start = _offset(first) if first else max(0, size_bytes - _offset(length))
    end = _offset(last) + 1 if last else size_bytes
    if last and end <= start:
        return None
    if start >= size_bytes:
        raise RangeNotSatisfiable(size_bytes)
    return Range(start, min(end, size_bytes))


def _offset(digits: str) -> int:
    return int(digits.lstrip("0")[:DIGITS_MAX] or 0)
