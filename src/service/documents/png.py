"""PNG, as ISO/IEC 15948 has it: a signature, then chunks with their CRCs, from IHDR to IEND."""

from struct import Struct
from zlib import crc32

from service.documents.walk import StructureCheck, read_in_pieces, require

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK = Struct(">I4s")
CRC = Struct(">I")
HEADER = Struct(">IIBBBBB")

CHUNK_BYTES_MAX = 2**31 - 1
CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
"""The bit depths that each colour type may have."""


def png() -> StructureCheck:
    require((yield len(SIGNATURE)) == SIGNATURE, "it does not begin as a PNG does")
    kind, seen = b"", set[bytes]()
    while kind != b"IEND":
        length, kind = CHUNK.unpack((yield CHUNK.size))
        _check_place(kind, length, seen)
        check = crc32(kind)
        for size in read_in_pieces(length):
            data = yield size
            check = crc32(data, check)
            if kind == b"IHDR":
                _check_header(data)
        require(CRC.pack(check) == (yield CRC.size), f"the CRC of its chunk {kind.decode()} is wrong")
        seen.add(kind)


def _check_place(kind: bytes, length: int, seen: set[bytes]) -> None:
    require(kind.isalpha() and length <= CHUNK_BYTES_MAX, "it has something that is no chunk")
    require((kind == b"IHDR") == (not seen), "its chunk IHDR is not the first, and the only one")
    require(kind[:1].islower() or kind in CRITICAL, f"its chunk {kind.decode()} is none PNG knows")
    if kind == b"IHDR":
        require(length == HEADER.size, "its chunk IHDR has a wrong length")
    elif kind == b"IEND":
        require(length == 0, "its chunk IEND is not empty")
        require(b"IDAT" in seen, "it has no chunk IDAT")


def _check_header(header: bytes) -> None:
    width, height, depth, colour, compression, filtering, interlace = HEADER.unpack(header)
    require(0 < width <= CHUNK_BYTES_MAX and 0 < height <= CHUNK_BYTES_MAX, "it has no width or height")
    require(depth in DEPTHS.get(colour, ()), "its bit depth does not fit its colour type")
    require(compression == filtering == 0 and interlace in {0, 1}, "its chunk IHDR is not one PNG knows")
