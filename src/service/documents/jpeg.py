"""JPEG (ITU-T T.81 annex B): marker segments from SOI to EOI, with scans between them.

Cameras append further images, such as previews (CIPA DC-007, "MPF"), depth maps and gain maps. Each of them
must be a complete JPEG too.
"""

import re
from collections.abc import Iterator
from struct import Struct

from service.documents.structure import (
    PARTS_MAX,
    TOO_MANY_PARTS,
    TRUNCATED,
    Data,
    MalformedFile,
    check_trailer,
    require,
)

FRAME = Struct(">HBHHB")
"""Length, precision, height, width and number of components."""
LENGTH_BYTES = 2

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
START = b"\xff\xd8\xff"
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of a frame header (SOF), which has the frame's encoding, height and width."""
BARE = {0x01, *range(0xD0, 0xD8)}
"""Markers without a segment: TEM, and restarts (RST), which decoders skip outside a scan."""

MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
"""The next marker. Decoders skip the bytes before it."""
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""Any marker except a restart; 0xFF 0x00 is an escaped data byte."""
PADDING = re.compile(rb"\0*")
"""Bytes that may be between two images."""


def may_start_jpeg(start: bytes) -> bool:
    return START.startswith(start[: len(START)])


def check_jpeg(data: Data) -> None:
    """Check all images, and the bytes after the last one. Raises `MalformedFile`."""
    require(data[: len(START)] == START, "the file has no JPEG signature")
    parts = iter(range(PARTS_MAX))  # all images share the limit
    end = next_start = 0
    while data[next_start : next_start + len(START)] == START:
        end = _check_image(data, next_start + 2, parts)
        next_start = _skip_padding(data, end)
    check_trailer(data[end:])


def _check_image(data: Data, position: int, parts: Iterator[int]) -> int:
    """Check the image whose first segment is at `position`, and return the position after the image."""
    has_frame = has_scan = False
    for _ in parts:
        position = _search_end(MARKER, data, position)
        marker = data[position - 1]
        if marker == EOI:
            require(has_scan, "the JPEG has no image data")
            return position
        if marker in BARE:
            continue
        segment = _read_segment(data, position)
        position += len(segment)
        if marker in FRAMES:
            require(not has_frame, "the JPEG has more than one frame")
            _check_frame(segment)
            has_frame = True
        elif marker == SOS:
            require(has_frame, "a JPEG scan has no frame header")
            _check_scan(segment)
            has_scan = True
            position = _search_end(SCAN_END, data, position) - 2
    raise MalformedFile(TOO_MANY_PARTS)


def _skip_padding(data: Data, position: int) -> int:
    match = PADDING.match(data, position)
    return match.end() if match else position


def _search_end(pattern: re.Pattern[bytes], data: Data, position: int) -> int:
    """Return the end of the first match at or after `position`."""
    match = pattern.search(data, position)
    if match is None:
        raise MalformedFile(TRUNCATED)
    return match.end()


def _read_segment(data: Data, position: int) -> bytes:
    """Return the segment after a marker. It starts with its length, which includes these two bytes."""
    length = int.from_bytes(data[position : position + LENGTH_BYTES])
    require(position + max(length, LENGTH_BYTES) <= len(data), TRUNCATED)
    require(length >= LENGTH_BYTES, "a JPEG segment has an invalid length")
    return data[position : position + length]


def _check_frame(segment: bytes) -> None:
    require(len(segment) >= FRAME.size, "the JPEG frame header is incomplete")
    length, _, height, width, components = FRAME.unpack_from(segment)
    require(width and height and components, "the JPEG has no width, height or color components")
    require(length == FRAME.size + 3 * components, "the JPEG frame header has an invalid length")


def _check_scan(segment: bytes) -> None:
    components = int.from_bytes(segment[2:3])
    require(len(segment) == 6 + 2 * components, "a JPEG scan header has an invalid length")
