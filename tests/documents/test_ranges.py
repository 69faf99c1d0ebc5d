"""Byte ranges of a download (RFC 9110 §14)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.documents.ranges import Range, RangeNotSatisfiable, requested_range

ETAG = '"now"'


def asked(header: str, size_bytes: int = 1000, **more: str) -> Range | None:
    return requested_range({"range": header, **more}, ETAG, size_bytes)


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-499", 0, 500),
        ("bytes=500-999", 500, 1000),
        ("bytes=500-", 500, 1000),
        ("bytes=-1", 999, 1000),
        ("bytes=-5000", 0, 1000),
        ("bytes=0-5000", 0, 1000),
        ("Bytes= 1-2", 1, 3),
        ("bytes=0-999999999999999999", 0, 1000),
        ("bytes=0-" + "9" * 5000, 0, 1000),
        ("bytes=-" + "9" * 5000, 0, 1000),
        ("bytes=" + "0" * 5000 + "1-2", 1, 3),
    ],
)
def test_a_range_is_parsed(header: str, start: int, end: int) -> None:
    assert asked(header) == (start, end)


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-4", "items=0-5", "bytes=0-1,5-6"),
        *("bytes=1.5-2", "bytes=--1", "bytes=+1-2", "bytes=0x1-2", "bytes=１-２"),
    ],
)
def test_a_header_other_than_one_range_is_ignored(header: str) -> None:
    assert asked(header) is None
    assert requested_range({}, ETAG, 1000) is None


@pytest.mark.parametrize(
    "header",
    ["bytes=1000-", "bytes=1000-1001", "bytes=5000-6000", "bytes=-0", "bytes=" + "9" * 5000 + "-"],
)
def test_a_range_outside_of_the_file_is_rejected_with_the_files_size(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        asked(header)
    assert refused.value.headers == {"Content-Range": "bytes */1000"}


def test_a_range_of_a_file_that_has_changed_since_is_ignored() -> None:
    assert asked("bytes=0-1", **{"if-range": ETAG}) == (0, 2)
    for other in ('"then"', f"W/{ETAG}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert asked("bytes=0-1", **{"if-range": other}) is None


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 1500))
def test_a_range_equals_a_slice_of_the_content(first: int, last: int, size_bytes: int) -> None:
    content = bytes(i % 256 for i in range(size_bytes))
    try:
        found = asked(f"bytes={first}-{last}", size_bytes)
    except RangeNotSatisfiable:
        assert first >= size_bytes
        assert first <= last
    else:
        assert (found is None) == (last < first)
        if found is not None:
            assert content[found.start : found.end] == content[first : last + 1]
            assert found.header(size_bytes) == f"bytes {first}-{min(last, size_bytes - 1)}/{size_bytes}"
