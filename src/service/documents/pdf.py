"""PDF, as ISO 32000-1 §7.5 has it: a header first, and last a trailer that leads to the cross-references."""

import re
from typing import BinaryIO

from service.documents.walk import PIECE_BYTES, MalformedFile, ReadUpTo, StructureCheck, require

HEADER = re.compile(rb"%PDF-[12]\.[0-9]")
END = re.compile(rb"(?:startxref\s+([0-9]{1,10})\s+)?%%EOF\s*\Z")
STREAM = re.compile(rb"\s*[0-9]+\s+[0-9]+\s+obj\s*<<(?=.*?/Type\s*/XRef\b)(?=.*?/Root\b)", re.DOTALL)
LINEARIZED = re.compile(rb"/Linearized\b[^>]*/L\s+([0-9]{1,10})\b|/L\s+([0-9]{1,10})\b[^>]*/Linearized\b")
"""A file made for the web says how long it is, and has an end in its first part too (annex F)."""

TAIL_BYTES = 65_536
LOOK_BYTES = 4096
"""What is at the very end, at the beginning or at an offset is looked for in so much."""


def pdf() -> StructureCheck:
    require(HEADER.fullmatch((yield 8)), "it does not begin as a PDF does")
    while (yield ReadUpTo(PIECE_BYTES)):
        pass


def check_end(file: BinaryIO, size_bytes: int) -> None:
    """Raise `MalformedFile` unless the file ends as a PDF does.

    Offsets are not checked, because programs that read PDFs repair wrong ones.
    """
    tail = _read(file, max(0, size_bytes - TAIL_BYTES), TAIL_BYTES)
    end = END.search(tail, max(0, len(tail) - LOOK_BYTES))
    if end is None:
        raise MalformedFile("it does not end with %%EOF")
    _, _, trailer = tail[: end.start()].rpartition(b"trailer")
    trailer = trailer.strip()
    if not (trailer.startswith(b"<<") and trailer.endswith(b">>")):
        offset = int(end[1] or 0)
        require(STREAM.match(_read(file, offset, LOOK_BYTES)), "it has no trailer")
    if linearized := LINEARIZED.search(_read(file, 0, LOOK_BYTES)):
        require(size_bytes >= int(linearized[1] or linearized[2]), "the file ends too early")


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)
