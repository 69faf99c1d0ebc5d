"""File names: whatever a client sends, what is kept can be shown, and is never a path."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.documents.filename import HIDDEN, JOINERS, attachment, clean


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("invoice.pdf", "invoice.pdf"),
        ("../../etc/passwd", "passwd"),
        ("/etc/shadow", "shadow"),
        ("C:\\Users\\ann\\cat.png", "cat.png"),
        ("..\\..\\x.png", "x.png"),
        ("a/b/", "default"),
        ("", "default"),
        ("..", "default"),
        (" . ", "default"),
        ("\u200d", "default"),
        ("  cat.png ", "cat.png"),
        (".htaccess", ".htaccess"),
        ("a\r\nSet-Cookie: x.png", "aSet-Cookie: x.png"),
        ("nul\0.png", "nul.png"),
        ("\u202egnp.exe", "gnp.exe"),
        ("\ufeffa\u2066b\u2069\u200e.png", "ab.png"),
        ("Ko\u0308ln.png", "Köln.png"),
        ("請求書.pdf", "請求書.pdf"),
        ("👩‍🚀.png", "👩‍🚀.png"),
        ("a" * 300 + ".png", "a" * 251 + ".png"),
        ("a." + "b" * 300, ("a." + "b" * 300)[:255]),
        ("." + "a" * 300, "." + "a" * 254),
    ],
)
def test_a_name_is_cleaned(sent: str, kept: str) -> None:
    assert clean(sent, "default") == kept


@given(st.text(max_size=600))
def test_whatever_is_sent(sent: str) -> None:
    kept = clean(sent, "default")
    assert 1 <= len(kept) <= 255
    assert not set(kept) & {"/", "\\", "\0"}
    assert not {c for c in kept if unicodedata.category(c) in HIDDEN} - JOINERS
    assert kept not in {".", ".."}
    assert clean(kept, "default") == kept.strip()


@given(st.text(min_size=1, max_size=300).map(lambda text: clean(text, "default")))
def test_a_header_of_it_is_safe(name: str) -> None:
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


def test_the_header_has_it_in_ascii_and_as_it_is() -> None:
    assert attachment('Köln "1".png') == (
        "attachment; filename=\"K_ln _1_.png\"; filename*=UTF-8''K%C3%B6ln%20%221%22.png"
    )
