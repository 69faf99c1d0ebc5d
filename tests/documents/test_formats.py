"""The structure checks: complete files pass, with all that programs add to them; other files do not."""

import re
from io import BytesIO
from pathlib import Path

import pytest
from format_checks import problem
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pypdfium2 import PdfDocument
from samples import (
    FILES,
    JPEG,
    OF_SIZE,
    PDF,
    PNG,
    PROGRAMS,
    TYPES,
    Sample,
    archive,
    chunk,
    flips,
    header,
    jpeg_of,
    pdf_of,
    picture,
    png,
    png_of,
    polyglots,
    sample,
    truncations,
    valid,
)

from service.documents.structure import PARTS_MAX

suffixes = pytest.mark.parametrize("suffix", TYPES)
IDAT, IEND = chunk(b"IDAT", b"x"), chunk(b"IEND", b"")


@pytest.mark.parametrize("sent", valid(), ids=lambda sent: sent.name)
def test_complete_files_pass(sent: Sample) -> None:
    assert problem(sent) is None


@suffixes
@pytest.mark.parametrize("size_bytes", [5_000, 65_536, 65_544, 70_000, 1_000_000])
def test_files_of_any_size_pass(suffix: str, size_bytes: int) -> None:
    content = OF_SIZE[suffix](size_bytes)
    assert len(content) == size_bytes
    assert problem(sample(f"x{suffix}", content)) is None


@given(st.sampled_from(list(TYPES)), st.binary(max_size=300), st.integers(0, 100))
def test_random_bytes_are_reported_as_malformed(suffix: str, noise: bytes, intact_bytes: int) -> None:
    assert problem(sample(f"x{suffix}", picture(suffix)[:intact_bytes] + noise))


@pytest.mark.parametrize("sent", valid(), ids=lambda sent: sent.name)
def test_a_truncated_file_does_not_pass(sent: Sample) -> None:
    for content in truncations(sent.content.rstrip(b"\r\n")):
        assert problem(sent._replace(content=content)), len(content)


def test_a_png_with_a_changed_bit_does_not_pass() -> None:
    for content in flips(picture(PNG)):
        assert problem(sample("x.png", content))


@suffixes
def test_a_file_does_not_pass_as_another_type(suffix: str) -> None:
    for other in TYPES.keys() - {suffix}:
        assert problem(sample(f"x{other}", picture(suffix)))
    assert problem(sample(f"x{suffix}", b"#!/bin/sh\n"))
    assert problem(sample(f"x{suffix}", b""))


@pytest.mark.parametrize("sent", list(polyglots()), ids=lambda sent: sent.name)
def test_a_polyglot_file_does_not_pass(sent: Sample) -> None:
    assert problem(sent)


def test_an_archive_is_found_wherever_programs_search_for_one() -> None:
    whole = picture(PNG)
    for comment in (0, 1, 65_000):
        hidden = chunk(b"ziPp", b"PK\5\6" + bytes(18 + comment))
        assert problem(sample("x.png", whole[:-12] + hidden + IEND)) == "the file is also a ZIP archive"


@pytest.mark.parametrize(
    ("why", "chunks"),
    [
        ("no chunks", []),
        ("no header", [IDAT, IEND]),
        ("two headers", [header(), header(), IDAT, IEND]),
        ("a header at the end", [header(), IDAT, header(), IEND]),
        ("no image", [header(), IEND]),
        ("no end", [header(), IDAT]),
        ("an end with content", [header(), IDAT, chunk(b"IEND", b"x")]),
        ("a short header", [chunk(b"IHDR", b"x"), IDAT, IEND]),
        ("no width", [header(width=0), IDAT, IEND]),
        ("no height", [header(height=0), IDAT, IEND]),
        ("too large a width", [header(width=2**31), IDAT, IEND]),
        ("an unknown colour type", [header(colour=5), IDAT, IEND]),
        ("a bit depth that does not fit", [header(depth=4), IDAT, IEND]),
        ("an unknown compression", [header(rest=b"\1\0\0"), IDAT, IEND]),
        ("an unknown interlacing", [header(rest=b"\0\0\2"), IDAT, IEND]),
        ("an unknown critical chunk", [header(), chunk(b"ABCD", b""), IDAT, IEND]),
        ("a chunk without a name", [header(), chunk(b"\0\0\0\0", b""), IDAT, IEND]),
        ("a chunk that is too long", [header(), b"\xff\xff\xff\xffIDAT"]),
    ],
)
def test_an_invalid_png_does_not_pass(why: str, chunks: list[bytes]) -> None:
    assert problem(sample("good.png", png(header(), chunk(b"tEXt", b"a\0b"), IDAT, IEND))) is None
    assert problem(sample("x.png", png(*chunks))), why


SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SOF = b"\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0"
SOS = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
SCAN = b"\x12\xff\x00\x34\xff\xd0\x56\xff\xd7"
MPF = b"\xff\xe2\0\x06MPF\0"


def test_the_smallest_jpegs_pass() -> None:
    for content in (
        SOI + SOF + SOS + SCAN + EOI,
        SOI + SOF + SOS + EOI,
        SOI + SOF + SOS + SCAN + SOS + SCAN + b"\xff\xff\xff" + EOI,
        SOI + b"\xff\xff" + SOF + SOS + SCAN + b"\xff\xc4\0\2" + SOS + SCAN + EOI,
        SOI + MPF + SOF + SOS + SCAN + EOI,
        SOI + MPF + SOF + SOS + SCAN + EOI + SOI + SOF + SOS + SCAN + EOI,
        (SOI + SOF + SOS + SCAN + EOI + bytes(9)) * 3,
        SOI + SOF + b"junk" + SOS + SCAN + EOI,
        SOI + b"\xff\xd0" + SOF + SOS + SCAN + EOI,
    ):
        assert problem(sample("x.jpg", content)) is None


@pytest.mark.parametrize(
    ("why", "content"),
    [
        ("no image", SOI + EOI),
        ("no scan", SOI + SOF + EOI),
        ("no frame", SOI + SOS + SCAN + EOI),
        ("two frames", SOI + SOF + SOF + SOS + SCAN + EOI),
        ("no end", SOI + SOF + SOS + SCAN),
        ("a script for a first segment", SOI + b"#!" + SOF + SOS + SCAN + EOI),
        ("a segment shorter than its length", SOI + b"\xff\xfe\0\1" + SOF + SOS + SCAN + EOI),
        ("a scan without a header", SOI + SOF + b"\xff\xda\0\2" + SCAN + EOI),
        ("a frame without a header", SOI + b"\xff\xc0\0\2" + SOS + SCAN + EOI),
        ("a frame without colours", SOI + SOF.replace(b"\1\1\x11\0", b"\0\1\x11\0") + SOS + SCAN + EOI),
        ("a frame of another length", SOI + SOF.replace(b"\1\1\x11\0", b"\3\1\x11\0") + SOS + SCAN + EOI),
        ("no height", SOI + SOF.replace(b"\x08\0\1", b"\x08\0\0") + SOS + SCAN + EOI),
        ("a second image that is none", SOI + MPF + SOF + SOS + SCAN + EOI + b"<html>"),
        ("half a second image", SOI + MPF + SOF + SOS + SCAN + EOI + SOI + SOF),
    ],
)
def test_an_invalid_jpeg_does_not_pass(why: str, content: bytes) -> None:
    assert problem(sample("x.jpg", content)), why


@pytest.mark.parametrize(
    ("why", "old", "new"),
    [
        ("no header", b"%PDF-1.4", b"        "),
        ("no end", b"%%EOF", b""),
        ("half an end", b"%%EOF", b"%%EO"),
        ("text behind the end", b"%%EOF\n", b"%%EOF\nx"),
        ("markup in a comment behind the end", b"%%EOF\n", b"%%EOF\n%<html>"),
        ("the start of an object behind the end", b"%%EOF\n", b"%%EOF\n9 0 obj <<>> stream\n\0\xff"),
        ("no trailer", b"/Root", b"/Roof"),
    ],
)
def test_an_invalid_pdf_does_not_pass(why: str, old: bytes, new: bytes) -> None:
    whole = pdf_of(1000)
    assert problem(sample("x.pdf", whole)) is None
    assert whole.count(old) == 1
    assert problem(sample("x.pdf", whole.replace(old, new))), why


@pytest.mark.parametrize(
    ("why", "old", "new"),
    [
        ("iText's comment", b"startxref", b"%iText-Core-8.0.2\nstartxref"),
        ("exiftool's comments", b"startxref", b"%BeginExifToolUpdate\n%EndExifToolUpdate 99\nstartxref"),
        ("a comment between the offset and the end", b"%%EOF", b"% made by hand\r%%EOF"),
        ("a comment behind the end", b"%%EOF\n", b"%%EOF\n% the end\n"),
        ("NULs behind the end", b"%%EOF\n", b"%%EOF" + bytes(3000)),
        ("blanks behind the end", b"%%EOF\n", b"%%EOF \t\f\r\n\n"),
        ("the end of a text file of DOS", b"%%EOF\n", b"%%EOF\r\n\x1a"),
        ("a printer's command behind the end", b"%%EOF\n", b"%%EOF\n\x1b%-12345X@PJL EOJ\r\n"),
        ("a printer's command before the header", b"%PDF-1.4", b"\x1b%-12345X@PJL JOB\r\n%PDF-1.4"),
        ("a byte order mark", b"%PDF-1.4", b"\xef\xbb\xbf%PDF-1.4"),
        ("line breaks before the header", b"%PDF-1.4", b"\r\n\r\n%PDF-1.4"),
        ("a comment before the header", b"%PDF-1.4", b"%!PS-Adobe-3.0\n%PDF-1.4"),
        ("another version", b"%PDF-1.4", b"%PDF-3.0"),
        ("an offset that decoders repair", b"startxref", b"startxxxx"),
        ("a trailer that decoders repair", b"trailer\n", b"trailer % a comment\n"),
    ],
)
def test_a_pdf_passes_as_programs_write_it(why: str, old: bytes, new: bytes) -> None:
    whole = pdf_of(1000)
    assert whole.count(old) == 1
    assert problem(sample("x.pdf", whole.replace(old, new))) is None, why


TRAILERS = {
    "a padding byte": b"\0",
    "NULs": bytes(70_000),
    "blanks": b" \r\n\r\n",
    "0xFF": b"\xff" * 500,
    "Samsung's notes": b"\0\0\1\x0a\x0e\0\0\0Image_UTC_Data1700000000000SEFH\x6b\0\0\0\1\0\0\0SEFT",
    "a motion photo's video": b"\0\0\0\x18ftypmp42\0\0\0\0isommp42\0\0\0\x08mdat" + bytes(range(256)) * 9,
    "Canon's notes": b"CANON OPTIONAL DATA\0\0\1\0\0" + bytes(40) + b"CANON OPTIONAL DATA\0",
}


@pytest.mark.parametrize("suffix", [PNG, JPEG])
@pytest.mark.parametrize("trailer", TRAILERS.values(), ids=TRAILERS)
def test_an_image_passes_with_what_cameras_append(suffix: str, trailer: bytes) -> None:
    content = picture(suffix) + trailer
    Image.open(BytesIO(content)).load()
    assert problem(sample(f"x{suffix}", content)) is None


@given(st.sampled_from([PNG, JPEG]), st.binary(min_size=200, max_size=2000))
def test_random_bytes_after_an_image_raise_no_other_error(suffix: str, noise: bytes) -> None:
    assert problem(sample(f"x{suffix}", picture(suffix) + b"\1" + noise)) in {
        *(None, "there is markup after the end of the file", "there is an archive after the end of the file"),
        *("the file is also a ZIP archive", "there is text after the end of the file"),
    }


def test_a_cross_reference_stream_needs_its_root() -> None:
    whole = (FILES / "qpdf-object-streams.pdf").read_bytes()
    assert problem(sample("x.pdf", whole)) is None
    assert problem(sample("x.pdf", whole.replace(b"/Root", b"/Xxxx")))


def test_a_pdf_may_end_in_line_breaks() -> None:
    assert problem(sample("x.pdf", pdf_of(1000) + b"\r\n\n")) is None


def test_wrong_offsets_in_a_pdf_pass() -> None:
    for offset in (b"0", b"9" * 10):
        off = re.sub(rb"startxref\n[0-9]+", b"startxref\n" + offset, pdf_of(1000))
        assert problem(sample("x.pdf", off)) is None


def test_a_linearized_pdf_must_have_its_stated_length() -> None:
    whole = (FILES / "qpdf-linearized.pdf").read_bytes()
    assert problem(sample("x.pdf", whole[: whole.index(b"%%EOF") + 6])) == "the file is truncated"
    assert problem(sample("x.pdf", whole + b"\n" + pdf_of(500)[9:])) is None  # a later version may follow


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (PNG, png(header(), chunk(b"tEXt", b"") * PARTS_MAX)),
        (JPEG, SOI + b"\xff\xfe\0\2" * PARTS_MAX),
        (JPEG, SOI + SOF + SOS + (b"\xff\xda\0\x08\1\1\0\0\x3f\0" * PARTS_MAX)),
    ],
)
def test_a_file_with_too_many_parts_does_not_pass(suffix: str, content: bytes) -> None:
    assert problem(sample(f"x{suffix}", content)) == "the file has too many parts"


def test_the_stored_files_are_small() -> None:
    assert all(path.stat().st_size < 20_000 for path in [*FILES.iterdir(), *PROGRAMS.iterdir()])
    assert len(png_of(20_000)) == len(jpeg_of(20_000)) == 20_000


@pytest.mark.parametrize("path", sorted(PROGRAMS.iterdir()), ids=lambda path: path.name)
def test_files_of_many_programs_pass_and_open(path: Path) -> None:
    sent = sample(path.name, path.read_bytes())
    if path.suffix == PDF:
        assert len(PdfDocument(sent.content)) > 0
    else:
        with Image.open(BytesIO(sent.content)) as image:
            image.load()
    assert problem(sent) is None


@pytest.mark.parametrize("path", sorted(PROGRAMS.iterdir()), ids=lambda path: path.name)
def test_files_of_many_programs_do_not_pass_truncated_or_with_another_file(path: Path) -> None:
    whole = path.read_bytes()
    for other in (whole[: len(whole) // 3], whole + archive(), whole + b"<html><script>alert(1)</script>"):
        assert problem(sample(path.name, other))
