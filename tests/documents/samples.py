"""Files to send: valid ones of every format and size, and many invalid ones."""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

from PIL import Image

FILES = Path(__file__).with_name("files")
"""Files named after the program that created them."""
PROGRAMS = Path(__file__).with_name("programs")
"""Small files of about seventy programs and their options, named after them."""
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".pdf": "application/pdf"}
ARCHIVE_END = b"PK\5\6" + bytes(18)
"""An empty ZIP archive."""
ARCHIVE_END_ON_DISK_1 = b"PK\5\6\1\0\1\0" + bytes(14)


class Sample(NamedTuple):
    name: str
    content: bytes
    content_type: str

    def part(self) -> dict[str, tuple[str, bytes, str]]:
        """The file as httpx accepts it in `files`."""
        return {"file": self}


def sample(name: str, content: bytes) -> Sample:
    return Sample(name, content, TYPES[Path(name).suffix])


@cache
def valid() -> list[Sample]:
    """Return files of each format, by four programs or more."""
    made = [sample(f"pillow{suffix}", picture(suffix)) for suffix in TYPES]
    stored = [sample(path.name, path.read_bytes()) for path in sorted(FILES.iterdir())]
    return [*made, *stored]


PNG = ".png"
JPEG = ".jpg"
PDF = ".pdf"


@cache
def picture(suffix: str, width: int = 64, height: int = 48, **options: Any) -> bytes:
    """Return a picture that Pillow encodes."""
    image = Image.radial_gradient("L").resize((width, height)).convert("RGB")
    content = BytesIO()
    image.save(content, Image.registered_extensions()[suffix], **options)
    return content.getvalue()


def png_of(size_bytes: int, seed: int = 0) -> bytes:
    """Return a valid PNG of exactly this size, padded with a chunk that programs skip."""
    whole = picture(PNG)
    filling = bytes([seed % 256]) * (size_bytes - len(whole) - 12)
    return whole[:-12] + chunk(b"fiLl", struct.pack(">I", seed) + filling[4:]) + whole[-12:]


def jpeg_of(size_bytes: int) -> bytes:
    whole, missing, segments = picture(JPEG), size_bytes - len(picture(JPEG)), b""
    while missing:
        length = missing if missing <= 65_537 else min(65_537, missing - 4)
        segments += b"\xff\xfe" + struct.pack(">H", length - 2) + bytes(length - 4)
        missing -= length
    return whole[:2] + segments + whole[2:]


def pdf_of(size_bytes: int) -> bytes:
    """Return a PDF of this size, padded with a comment after the header, so the cross-references move."""
    start = b"%PDF-1.4\n%"
    objects = (
        b"\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n2 0 obj\n<</Type/Pages/Kids[]/Count 0>>\nendobj\n"
    )
    table = b"xref\n0 1\n0000000000 65535 f \ntrailer\n<</Size 3/Root 1 0 R>>\nstartxref\n%010d\n%%%%EOF\n"
    filling = b"x" * (size_bytes - len(start) - len(objects) - len(table % 0))
    return start + filling + objects + table % (len(start) + len(filling) + len(objects))


OF_SIZE: dict[str, Callable[[int], bytes]] = {PNG: png_of, JPEG: jpeg_of, PDF: pdf_of}


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def header(width: int = 1, height: int = 1, depth: int = 8, colour: int = 2, rest: bytes = bytes(3)) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, colour) + rest)


def compressed_zeros(size_bytes: int) -> bytes:
    """Return `zlib.compress(bytes(size_bytes))`, but compress only the first million bytes and the rest."""
    count, rest = divmod(size_bytes, 1_000_000)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    million = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.compress(bytes(rest)) + packer.flush()
    checksum = size_bytes % 65_521 << 16 | 1  # Adler-32 (RFC 1950 §8.2)
    return b"\x78\xda" + million * count + end + checksum.to_bytes(4, "big")


@cache
def bomb_of_pixels() -> bytes:
    """Return a few KiB that declare 100,000 pixels in width and height."""
    return png(header(100_000, 100_000), chunk(b"IDAT", compressed_zeros(1_000_000)), chunk(b"IEND", b""))


@cache
def bomb_of_rows() -> bytes:
    """Return 143 KiB of PNG. Its 49 million pixels are within the limit, but take 147 MB once decoded."""
    data = compressed_zeros(7000 * (7000 * 3 + 1))
    return png(header(7000, 7000), chunk(b"IDAT", data), chunk(b"IEND", b""))


@cache
def bomb_of_text() -> bytes:
    """Return a PNG with a compressed comment of 200 MB."""
    return png(header(), chunk(b"zTXt", b"Comment\0\0" + compressed_zeros(200_000_000)), *_pixel())


@cache
def bomb_of_scans() -> bytes:
    """Return 230 KB of JPEG with 1,500 scans over 36 million pixels."""
    image, content = Image.new("L", (6000, 6000)), BytesIO()
    image.save(content, "JPEG", progressive=True)
    whole = content.getvalue()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + scan * 1500 + whole[-2:]


@cache
def bomb_of_forms() -> bytes:
    """Return 2 KB of PDF: forms nested nine deep, each of which draws the next one ten times."""
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 99 99]"
    draws = form + b"/Resources<</XObject<</F %d 0 R>>>>"
    forms = [(draws % (number + 1), b"/F Do " * 10) for number in range(5, 14)]
    last = (form, b"0 0 50 50 re f")
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Resources<</XObject<</F 5 0 R>>>>/Contents 4 0 R>>"
    streams = [(b"", b"/F Do"), *forms, last]
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        page,
        *(b"<<%b/Length %d>>\nstream\n%b\nendstream" % (about, len(data), data) for about, data in streams),
    )


def pdf(*objects: bytes) -> bytes:
    """Return a PDF with these objects, numbered from 1; the catalog is first."""
    whole, table = b"%PDF-1.4\n", b"0000000000 65535 f \n"
    for number, content in enumerate(objects, start=1):
        table += b"%010d 00000 n \n" % len(whole)
        whole += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    count = len(objects) + 1
    end = b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (count, len(whole))
    return whole + b"xref\n0 %d\n" % count + table + end


def truncations(whole: bytes, step: int = 1) -> Iterator[bytes]:
    """Yield every truncation of a file, starting with the empty one."""
    for end in range(0, len(whole), step):
        yield whole[:end]


def flips(whole: bytes, step: int = 1) -> Iterator[bytes]:
    """Yield the file with one bit changed, in one byte after the other."""
    for position in range(0, len(whole), step):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        yield bytes(changed)


def polyglots() -> Iterator[Sample]:
    """Yield files that contain two formats."""
    script, html = b"#!/bin/sh\necho gotcha\n", b"<html><script>alert(1)</script></html>"
    for suffix in TYPES:
        whole = picture(suffix)
        for other in (script, html, ARCHIVE_END, ARCHIVE_END_ON_DISK_1, archive(), *others(suffix)):
            yield sample(f"behind{suffix}", whole + other)
            yield sample(f"before{suffix}", other + whole)
        for other in (
            b"MZ\x90\0\3\0",
            b"\x7fELF\2\1",
            b"Rar!\x1a\x07\0",
            b"7z\xbc\xaf\x27\x1c\0\4",
            b"GIF89a\1\0",
        ):
            yield sample(f"padded{suffix}", whole + bytes(100) + other)
        for other in (script, html, html.replace(b">", b">\0"), b"<?php echo 1; ?>", b"alert(1)", archive()):
            yield sample(f"padded{suffix}", whole + bytes(100) + b"\r\n" + other)
    hidden = chunk(b"ziPp", b"PK\3\4" + bytes(40) + ARCHIVE_END)
    yield sample("hidden.png", png(header(), hidden, *_pixel()))
    yield sample("hidden.pdf", pdf_of(2000).replace(b"x" * 22, ARCHIVE_END, 1))
    yield sample(
        "comment.jpg", picture(JPEG)[:-2] + b"\xff\xfe" + struct.pack(">H", 24) + ARCHIVE_END + b"\xff\xd9"
    )


def archive() -> bytes:
    """Return a ZIP archive of one file, with the number of another disk in its last record."""
    packed = BytesIO()
    with ZipFile(packed, "w") as file:
        file.writestr("x.sh", "echo gotcha")
    whole = bytearray(packed.getvalue())
    whole[whole.rindex(b"PK\5\6") + 4] = 7
    return bytes(whole)


def others(suffix: str) -> list[bytes]:
    return [picture(other) for other in TYPES if other != suffix]


def _pixel() -> list[bytes]:
    return [chunk(b"IDAT", zlib.compress(bytes(4))), chunk(b"IEND", b"")]
