"""PDF (ISO 32000-1 §7.5): a header within the first bytes, and an end marker after the last trailer.

Offsets are not checked, because programs that read PDFs repair wrong ones.
"""

import re

from service.documents.structure import PADDING, TRUNCATED, Data, check_trailer, require

HEADER = b"%PDF-"
HEADER_OFFSET_MAX = 1024
"""Decoders search for the header in the first KiB."""
END = b"%%EOF"
BLANK = b"\xef\xbb\xbf\xff\xfe" + PADDING
"""White space (§7.2.2) and the bytes of a byte order mark."""
COMMENT = re.compile(rb"%[^\r\n<]*")
"""A comment (§7.2.3) without markup. A comment with markup is treated as text."""
PRINTER_COMMAND = b"\x1b%-12345X"
"""Printer drivers wrap a PDF in commands that start like this."""
LINEARIZED = re.compile(rb"/Linearized\b[^>]*/L\s+([0-9]{1,10})\b|/L\s+([0-9]{1,10})\b[^>]*/Linearized\b")
"""A linearized PDF states its length, and its first part also has an end (annex F)."""
LINEARIZED_OFFSET_MAX = 1024


def may_start_pdf(start: bytes) -> bool:
    content = start.lstrip(BLANK)
    return not content or content[:1] in {HEADER[:1], PRINTER_COMMAND[:1]}


def check_pdf(data: Data) -> None:
    """Check the start and the end, and the bytes before and after them. Raises `MalformedFile`."""
    start = data.find(HEADER, 0, HEADER_OFFSET_MAX + len(HEADER))
    require(start >= 0, "the file has no PDF signature")
    before = data[:start].lstrip(BLANK)
    blank = not COMMENT.sub(b"", before).strip(BLANK)
    require(blank or before.startswith(PRINTER_COMMAND), "there is data before the start of the PDF")
    end = data.rfind(END)
    require(end >= 0, TRUNCATED)
    require(data.rfind(b"/Root", 0, end) >= 0, "the PDF has no trailer")
    if linearized := LINEARIZED.search(data, start, start + LINEARIZED_OFFSET_MAX):
        require(len(data) - start >= int(linearized[1] or linearized[2]), TRUNCATED)
    trailer = data[end + len(END) :]
    require(b" obj" not in trailer, TRUNCATED)
    check_trailer(COMMENT.sub(b"", trailer))
