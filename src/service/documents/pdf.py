"""PDF, as ISO 32000-1 §7.5 has it: a header first, and last a trailer that leads to the cross-references."""

import re
from typing import BinaryIO

from service.documents.walk import PIECE_BYTES, Broken, Some, Walk, require

HEADER = re.compile(rb"%PDF-[12]\.[0-9]")
END = re.compile(rb"startxref\s+([0-9]{1,10})\s+%%EOF\s*\Z")
TABLE = re.compile(rb"\s*xref\s")
STREAM = re.compile(rb"\s*[0-9]+\s+[0-9]+\s+obj\s*<<(?=.*?/Type\s*/XRef\b)(?=.*?/Root\b)", re.DOTALL)

TAIL_BYTES = 65_536
LOOK_BYTES = 4096
"""What follows `startxref`, and what it leads to, is looked for in so much."""


def pdf() -> Walk:
    require(HEADER.fullmatch((yield 8)), "it does not begin as a PDF does")
    while (yield Some(PIECE_BYTES)):
        pass


def check_trailer(file: BinaryIO, size_bytes: int) -> None:
    """What only the end of a file tells. Raises `Broken`."""
    tail = _read(file, max(0, size_bytes - TAIL_BYTES), TAIL_BYTES)
    end = END.search(tail, max(0, len(tail) - LOOK_BYTES))
    if end is None:
        raise Broken("it does not end with startxref and %%EOF")
    target = _read(file, int(end[1]), LOOK_BYTES)
    if TABLE.match(target):
        _, _, trailer = tail[: end.start()].rpartition(b"trailer")
        trailer = trailer.strip()
        require(trailer.startswith(b"<<") and trailer.endswith(b">>"), "it has no trailer")
    else:
        require(STREAM.match(target), "its startxref does not lead to cross-references")


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)
