"""Accepted formats and their checks."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from service.documents.jpeg import check_jpeg, may_start_jpeg
from service.documents.pdf import check_pdf, may_start_pdf
from service.documents.png import check_png, may_start_png
from service.documents.structure import Data, check_archive, require

ContentType = Literal["image/png", "image/jpeg", "application/pdf"]


class Format(Struct, frozen=True):
    """A file format. `may_start` checks the first bytes that arrive, `structure` the complete file."""

    name: str
    content_type: ContentType
    suffixes: tuple[str, ...]
    """The suffixes of file names, the usual one first."""
    may_start: Callable[[bytes], bool]
    structure: Callable[[Data], None]

    def check_start(self, start: bytes) -> None:
        """Check the first bytes, however few. Raises `MalformedFile`."""
        require(self.may_start(start), f"the file has no {self.name} signature")

    def check(self, data: Data) -> None:
        """Check a complete file. Raises `MalformedFile`."""
        self.structure(data)
        check_archive(data)


PNG = Format("PNG", "image/png", (".png",), may_start_png, check_png)
JPEG = Format("JPEG", "image/jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"), may_start_jpeg, check_jpeg)
PDF = Format("PDF", "application/pdf", (".pdf",), may_start_pdf, check_pdf)
FORMATS = (PNG, JPEG, PDF)
