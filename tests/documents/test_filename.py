"""File names: the stored name of a client's file can be displayed, and is never a path."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.documents.filename import HIDDEN, JOINERS, clean
from service.http.reply import attachment

SUFFIXES = (".png", ".apng")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("invoice.hta", "invoice.hta.png"),
        ("invoice.pdf", "invoice.pdf.png"),
        ("IMG_1.PNG", "IMG_1.PNG"),
        ("cat.png.exe", "cat.png.exe.png"),
        ("cat.png. .", "cat.png"),
        (".png", ".png.png"),
        ("../../etc/passwd", "passwd.png"),
        ("/etc/shadow", "shadow.png"),
        ("C:\\Users\\ann\\cat.png", "cat.png"),
        ("..\\..\\x.png", "x.png"),
        ("a/b/", "document.png"),
        ("", "document.png"),
        ("..", "document.png"),
        (" . ", "document.png"),
        ("\u200d", "document.png"),
        ("  cat.png ", "cat.png"),
        (".htaccess", ".htaccess.png"),
        ("a\r\nSet-Cookie: x.png", "aSet-Cookie: x.png"),
        ("nul\0.png", "nul.png"),
        ("\u202egnp.exe", "gnp.exe.png"),
        ("\ufeffa\u2066b\u2069\u200e.png", "ab.png"),
        ("Ko\u0308ln.png", "Köln.png"),
        ("請求書.png", "請求書.png"),
        ("👩‍🚀.png", "👩‍🚀.png"),
        ("a" * 300 + ".png", "a" * 251 + ".png"),
        ("a." + "b" * 300, "a." + "b" * 249 + ".png"),
        ("." + "a" * 300, "." + "a" * 250 + ".png"),
    ],
)
def test_a_name_is_cleaned_and_ends_with_a_suffix_of_its_type(sent: str, kept: str) -> None:
    assert clean(sent, SUFFIXES) == kept


@given(st.text(max_size=600))
def test_any_name_becomes_a_safe_one(sent: str) -> None:
    kept = clean(sent, SUFFIXES)
    assert 1 <= len(kept) <= 255
    assert not set(kept) & {"/", "\\", "\0"}
    assert not {c for c in kept if unicodedata.category(c) in HIDDEN} - JOINERS
    assert kept.lower().endswith(SUFFIXES)
    assert clean(kept, SUFFIXES) == kept


@given(st.text(min_size=1, max_size=300).map(lambda text: clean(text, SUFFIXES)))
def test_the_header_with_a_file_name_cannot_be_injected(name: str) -> None:
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


def test_the_header_has_the_exact_name_and_an_ascii_fallback() -> None:
    assert attachment('Köln "1".png') == (
        "attachment; filename=\"K_ln _1_.png\"; filename*=UTF-8''K%C3%B6ln%20%221%22.png"
    )
