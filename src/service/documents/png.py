"""PNG (ISO/IEC 15948): a signature, then chunks with their CRCs, from IHDR to IEND."""

from struct import Struct
from zlib import crc32

from service.documents.structure import (
    PARTS_MAX,
    TOO_MANY_PARTS,
    TRUNCATED,
    Data,
    MalformedFile,
    check_trailer,
    require,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK = Struct(">I4s")
CRC = Struct(">I")
HEADER = Struct(">IIBBBBB")

CHUNK_BYTES_MAX = 2**31 - 1
CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
"""The bit depths that each color type may have."""


def may_start_png(start: bytes) -> bool:
    return SIGNATURE.startswith(start[: len(SIGNATURE)])


def check_png(data: Data) -> None:
    """Check all chunks, and the bytes after the last one. Raises `MalformedFile`."""
    require(data[: len(SIGNATURE)] == SIGNATURE, "the file has no PNG signature")
    position, kinds = len(SIGNATURE), set[bytes]()
    with memoryview(data) as view:
        for _ in range(PARTS_MAX):
            kind, position = _check_chunk(view, position, kinds)
            kinds.add(kind)
            if kind == b"IEND":
                return check_trailer(data[position:])
    raise MalformedFile(TOO_MANY_PARTS)


def _check_chunk(view: memoryview, position: int, kinds: set[bytes]) -> tuple[bytes, int]:
    """Check the chunk at `position`. Return its kind and the position after it."""
    start = position + CHUNK.size
    require(start <= len(view), TRUNCATED)
    length, kind = CHUNK.unpack_from(view, position)
    _check_place(kind, length, kinds)
    end = start + length
    require(end + CRC.size <= len(view), TRUNCATED)
    if kind == b"IHDR":
        _check_header(view[start:end])
    crc = crc32(view[position + 4 : end])
    require(CRC.pack(crc) == view[end : end + CRC.size], f"the CRC of PNG chunk {kind.decode()} is wrong")
    return kind, end + CRC.size


def _check_place(kind: bytes, length: int, kinds: set[bytes]) -> None:
    require(kind.isalpha() and length <= CHUNK_BYTES_MAX, "the file contains an invalid PNG chunk")
    require((kind == b"IHDR") == (not kinds), "the PNG must start with its only IHDR chunk")
    require(kind[:1].islower() or kind in CRITICAL, f"{kind.decode()} is an unknown critical PNG chunk")
    if kind == b"IHDR":
        require(length == HEADER.size, "the IHDR chunk has an invalid length")
    elif kind == b"IEND":
        require(length == 0, "the IEND chunk is not empty")
        require(b"IDAT" in kinds, "the PNG has no IDAT chunk")


def _check_header(header: memoryview) -> None:
    width, height, depth, color, compression, filtering, interlace = HEADER.unpack(header)
    require(0 < width <= CHUNK_BYTES_MAX and 0 < height <= CHUNK_BYTES_MAX, "the PNG has no width or height")
    require(depth in DEPTHS.get(color, ()), "the bit depth is invalid for the color type")
    require(compression == filtering == 0 and interlace in {0, 1}, "the IHDR chunk has unknown values")
