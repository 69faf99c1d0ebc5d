"""JPEG, as ITU-T T.81 annex B has it: marker segments from SOI to EOI, with scans between them.

Cameras put further images into one file (CIPA DC-007, "MPF"), each a JPEG of its own after the first: where
the first says so, they may follow.
"""

import re
from collections.abc import Generator
from struct import Struct

from service.documents.walk import ReadRequest, ReadThrough, ReadUpTo, StructureCheck, read_in_pieces, require

LENGTH = Struct(">H")
FRAME = Struct(">BHHB")

SOI, EOI, SOS, APP2 = 0xD8, 0xD9, 0xDA, 0xE2
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""SOF: how the frame was encoded, its height and width."""
BARE = {0x00, 0x01, *range(0xD0, 0xD9), 0xFF}
"""What has no length, and no place before or after a scan."""

SCAN_END = ReadThrough(re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL))
"""A marker, but no restart of the scan (RST); 0xFF 0x00 is a byte of the image's data."""
SEVERAL = b"MPF\0"


def jpeg() -> StructureCheck:
    require((yield 2) == bytes([0xFF, SOI]), "it does not begin as a JPEG does")
    several = yield from _image()
    while several and (start := (yield ReadUpTo(2))):
        require(start == bytes([0xFF, SOI]), "something follows the end of the file")
        yield from _image()


def _image() -> Generator[ReadRequest, bytes, bool]:
    """From behind SOI to EOI. Tells whether further images may follow."""
    framed = scanned = several = False
    marker = yield from _marker()
    while marker != EOI:
        require(marker not in BARE, "it has a marker where none may be")
        (length,) = LENGTH.unpack((yield LENGTH.size))
        require(length >= LENGTH.size, "one of its segments has no length")
        begin = yield min(length - LENGTH.size, FRAME.size)
        yield from read_in_pieces(length - LENGTH.size - len(begin))
        several |= marker == APP2 and begin.startswith(SEVERAL)
        if marker in FRAMES:
            require(not framed, "it has more than one frame")
            _check_frame(begin, length)
            framed = True
        if marker == SOS:
            require(framed, "it has a scan without a frame")
            require(length == 6 + 2 * int.from_bytes(begin[:1]), "the header of its scan has a wrong length")
            scanned = True
            marker = (yield SCAN_END)[1]
        else:
            marker = yield from _marker()
    require(scanned, "it has no image")
    return several


def _marker() -> Generator[ReadRequest, bytes, int]:
    """0xFF, as often as one likes, and its code."""
    require((yield 1) == b"\xff", "it has bytes where a marker has to be")
    while (code := (yield 1)) == b"\xff":
        pass
    return code[0]


def _check_frame(begin: bytes, length: int) -> None:
    require(len(begin) == FRAME.size, "its frame has no header")
    _, height, width, components = FRAME.unpack(begin)
    require(width and height and components, "it has no width, height or colours")
    require(length == 8 + 3 * components, "the header of its frame has a wrong length")
