"""Whether a file is what it says it is: whole files pass, however they come, and nothing else does."""

import re
from pathlib import Path

import pytest
from format_checks import cut, problem
from hypothesis import given
from hypothesis import strategies as st
from samples import (
    FILES,
    JPEG,
    OF_SIZE,
    PNG,
    TYPES,
    Sample,
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

from service.documents.walk import STEPS_MAX

suffixes = pytest.mark.parametrize("suffix", TYPES)
IDAT, IEND = chunk(b"IDAT", b"x"), chunk(b"IEND", b"")


@pytest.mark.parametrize("sent", valid(), ids=lambda sent: sent.name)
def test_whole_files_pass_whoever_made_them(sent: Sample) -> None:
    assert problem(sent) is None
    assert problem(sent, cut(sent.content, [1] * len(sent.content))) is None


@suffixes
@pytest.mark.parametrize("size_bytes", [5_000, 65_536, 65_544, 70_000, 1_000_000])
def test_of_any_size(suffix: str, size_bytes: int) -> None:
    content = OF_SIZE[suffix](size_bytes)
    assert len(content) == size_bytes
    assert problem(sample(f"x{suffix}", content)) is None


@given(
    st.sampled_from(valid()), st.lists(st.integers(0, 3000)), st.integers(0, 10_000), st.binary(max_size=3)
)
def test_how_a_file_is_cut_into_chunks_changes_nothing(
    sent: Sample, lengths: list[int], position: int, noise: bytes
) -> None:
    position %= len(sent.content)
    content = sent.content[:position] + noise + sent.content[position + len(noise) :]
    changed = sent._replace(content=content)
    assert problem(changed, cut(content, lengths)) == problem(changed)


@given(st.sampled_from(list(TYPES)), st.binary(max_size=300), st.integers(0, 100))
def test_nothing_that_can_be_sent_raises_anything_else(suffix: str, noise: bytes, begun: int) -> None:
    assert problem(sample(f"x{suffix}", picture(suffix)[:begun] + noise))


@pytest.mark.parametrize("sent", valid(), ids=lambda sent: sent.name)
def test_no_beginning_of_a_file_passes(sent: Sample) -> None:
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
def test_what_is_two_things_at_once_does_not_pass(sent: Sample) -> None:
    assert problem(sent)


def test_an_archive_is_found_wherever_programs_look_for_it() -> None:
    whole = picture(PNG)
    for comment in (0, 1, 65_000):
        hidden = chunk(b"ziPp", b"PK\5\6" + bytes(18 + comment))
        assert problem(sample("x.png", whole[:-12] + hidden + IEND)) == "it is a ZIP archive as well"


@pytest.mark.parametrize(
    ("why", "chunks"),
    [
        ("no chunks", []),
        ("no header", [IDAT, IEND]),
        ("two headers", [header(), header(), IDAT, IEND]),
        ("a header at the end", [header(), IDAT, header(), IEND]),
        ("no image", [header(), IEND]),
        ("no end", [header(), IDAT]),
        ("two ends", [header(), IDAT, IEND, IEND]),
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
def test_png_is_kept_to_its_rules(why: str, chunks: list[bytes]) -> None:
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
        ("two beginnings", SOI + SOI + SOF + SOS + SCAN + EOI),
        ("bytes between segments", SOI + b"x" + SOF + SOS + SCAN + EOI),
        ("a restart outside of a scan", SOI + b"\xff\xd0" + SOF + SOS + SCAN + EOI),
        ("a segment shorter than its length", SOI + b"\xff\xfe\0\1" + SOF + SOS + SCAN + EOI),
        ("a scan without a header", SOI + SOF + b"\xff\xda\0\2" + SCAN + EOI),
        ("a frame without a header", SOI + b"\xff\xc0\0\2" + SOS + SCAN + EOI),
        ("a frame without colours", SOI + SOF.replace(b"\1\1\x11\0", b"\0\1\x11\0") + SOS + SCAN + EOI),
        ("a frame of another length", SOI + SOF.replace(b"\1\1\x11\0", b"\3\1\x11\0") + SOS + SCAN + EOI),
        ("no height", SOI + SOF.replace(b"\x08\0\1", b"\x08\0\0") + SOS + SCAN + EOI),
        ("a second image that was not announced", (SOI + SOF + SOS + SCAN + EOI) * 2),
        ("a second image that is none", SOI + MPF + SOF + SOS + SCAN + EOI + b"<html>"),
        ("half a second image", SOI + MPF + SOF + SOS + SCAN + EOI + SOI + SOF),
        ("one byte of a second image", SOI + MPF + SOF + SOS + SCAN + EOI + b"\xff"),
    ],
)
def test_jpeg_is_kept_to_its_rules(why: str, content: bytes) -> None:
    assert problem(sample("x.jpg", content)), why


@pytest.mark.parametrize(
    ("why", "old", "new"),
    [
        ("an unknown version", b"%PDF-1.4", b"%PDF-9.4"),
        ("no header", b"%PDF-1.4", b"        "),
        ("no end", b"%%EOF", b""),
        ("something behind the end", b"%%EOF\n", b"%%EOF\n%"),
        ("something before the end", b"startxref", b"startxxxx"),
        ("an offset that is none", b"startxref\n0", b"startxref\n-"),
        ("no trailer", b"trailer", b"tryler!"),
        ("a trailer that is no dictionary", b"<</Size", b"  /Size"),
    ],
)
def test_pdf_is_kept_to_its_rules(why: str, old: bytes, new: bytes) -> None:
    whole = pdf_of(1000)
    assert problem(sample("x.pdf", whole)) is None
    assert whole.count(old) == 1
    assert problem(sample("x.pdf", whole.replace(old, new))), why


def test_a_cross_reference_stream_needs_its_type_and_root() -> None:
    whole = (FILES / "qpdf-object-streams.pdf").read_bytes()
    assert problem(sample("x.pdf", whole)) is None
    for name in (b"/XRef", b"/Root"):
        assert problem(sample("x.pdf", whole.replace(name, b"/Xxxx")))


def test_a_pdf_may_end_in_line_breaks() -> None:
    assert problem(sample("x.pdf", pdf_of(1000) + b"\r\n\n")) is None


def test_offsets_that_are_off_are_for_those_who_read_it() -> None:
    for offset in (b"0", b"9" * 10):
        off = re.sub(rb"startxref\n[0-9]+", b"startxref\n" + offset, pdf_of(1000))
        assert problem(sample("x.pdf", off)) is None


def test_a_file_made_for_the_web_is_as_long_as_it_says() -> None:
    whole = (FILES / "qpdf-linearized.pdf").read_bytes()
    assert problem(sample("x.pdf", whole[: whole.index(b"%%EOF") + 6])) == "the file ends too early"
    assert problem(sample("x.pdf", whole + b"\n" + pdf_of(500)[9:])) is None  # it may have been changed since


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (PNG, png(header(), chunk(b"tEXt", b"") * STEPS_MAX)),
        (JPEG, SOI + b"\xff\xfe\0\2" * STEPS_MAX),
        (JPEG, SOI + b"\xff" * STEPS_MAX * 2),
    ],
)
def test_a_file_made_to_keep_a_core_busy_is_given_up(suffix: str, content: bytes) -> None:
    assert problem(sample(f"x{suffix}", content)) == "it has too many parts"


def test_the_stored_files_are_small() -> None:
    assert all(path.stat().st_size < 20_000 for path in Path(FILES).iterdir())
    assert len(png_of(20_000)) == len(jpeg_of(20_000)) == 20_000
