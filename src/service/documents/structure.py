"""Helpers shared by the structure checks of all formats.

A check is a function that gets a complete file and raises `MalformedFile`.
"""

import re
from mmap import mmap
from typing import TypeAlias

Data: TypeAlias = "bytes | mmap"

PARTS_MAX = 100_000
"""The maximum number of chunks or segments. A file with more was made to exhaust the CPU."""
TRUNCATED = "the file is truncated"
TOO_MANY_PARTS = "the file has too many parts"

PADDING = b"\0\t\n\f\r \x1a"
TEXT = re.compile(rb"[\t\n\f\r -~]+")
FOREIGN_START = re.compile(
    rb"#!|%PDF-|\x89PNG|\xff\xd8\xff|GIF8|MZ|\x7fELF|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe|BZh|\x1f\x8b|\xfd7zXZ"
)
"""How scripts, programs, compressed files and other documents start."""
MARKUP = re.compile(rb"<(?:!doctype|html|head|body|script|iframe|svg|\?php)[\s>/]", re.IGNORECASE)
ARCHIVE = re.compile(rb"PK\x03\x04[\x0a-\x3f]\0|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|MSCF\0\0\0\0")
"""Signatures that archive programs search for anywhere in a file."""

ZIP_END_RECORD = re.compile(rb"PK\x05\x06(?=.{4}(.{4}).{8})", re.DOTALL)
"""A ZIP's last record (APPNOTE 4.3.16), which programs search for from the end, and its number of entries."""
ZIP_END_BYTES_MAX = 22 + 65_535
"""The maximum length of that record, with the longest comment."""
ZIP_ENTRY = b"PK\1\2"
NO_ZIP_ENTRIES = bytes(4)


class MalformedFile(ValueError):
    """A malformed file. The message is for the client."""


def require(condition: object, problem: str) -> None:
    if not condition:
        raise MalformedFile(problem)


def check_trailer(trailer: bytes) -> None:
    """Check the bytes after the end of a file.

    Cameras append padding, previews, videos and notes there, which decoders ignore. Text, markup, programs
    and other files are rejected, because the image would disguise them.
    """
    content = trailer.strip(PADDING)
    require(not TEXT.fullmatch(content), "there is text after the end of the file")
    require(not FOREIGN_START.match(content), "there is another file after the end of the file")
    require(not MARKUP.search(trailer), "there is markup after the end of the file")
    require(not ARCHIVE.search(trailer), "there is an archive after the end of the file")


def check_archive(data: Data) -> None:
    """Reject a file that is also a ZIP archive.

    The four bytes of the end record occur by chance in one of 65,000 legitimate files. An entry of the
    archive must therefore exist too, unless the record states that there is none.
    """
    entries = ZIP_END_RECORD.findall(data, max(0, len(data) - ZIP_END_BYTES_MAX))
    archive = NO_ZIP_ENTRIES in entries or (entries and data.find(ZIP_ENTRY) >= 0)
    require(not archive, "the file is also a ZIP archive")
