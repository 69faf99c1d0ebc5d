"""The formats that are taken, and how each is told from what only pretends to be one."""

from collections.abc import Callable
from typing import BinaryIO, Literal

from msgspec import Struct

from service.documents.jpeg import jpeg
from service.documents.pdf import check_end, pdf
from service.documents.png import png
from service.documents.walk import StructureCheck, require

ContentType = Literal["image/png", "image/jpeg", "application/pdf"]

ZIP_END_RECORD = b"PK\5\6\0\0\0\0"
"""How the last record of a ZIP begins (APPNOTE 4.3.16), which programs look for from the end of a file."""
ARCHIVE_END_BYTES_MAX = 22 + 65_535
"""With the longest comment."""


def no_final_check(_file: BinaryIO, _size_bytes: int) -> None:
    pass


class Format(Struct, frozen=True):
    """`walk` is taken while the bytes come in, `check` is called with the whole file; both raise `Broken`."""

    content_type: ContentType
    suffix: str
    walk: Callable[[], StructureCheck]
    check: Callable[[BinaryIO, int], None] = no_final_check


PNG = Format("image/png", ".png", png)
JPEG = Format("image/jpeg", ".jpg", jpeg)
PDF = Format("application/pdf", ".pdf", pdf, check_end)
FORMATS = (PNG, JPEG, PDF)


def check_complete_file(format_: Format, file: BinaryIO, size_bytes: int) -> None:
    """Raises `Broken`."""
    format_.check(file, size_bytes)
    file.seek(max(0, size_bytes - ARCHIVE_END_BYTES_MAX))
    require(ZIP_END_RECORD not in file.read(), "it is a ZIP archive as well")
