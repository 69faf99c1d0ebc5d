"""The checks of a format, taken as an upload takes them."""

from collections.abc import Iterable
from io import BytesIO

from samples import Sample

from service.documents.formats import FORMATS, check_complete_file
from service.documents.walk import MalformedFile, StructureChecker


def problem(sent: Sample, chunks: Iterable[bytes] | None = None) -> str | None:
    """What is wrong with a file that comes in those chunks; all at once unless told."""
    (format_,) = (known for known in FORMATS if known.content_type == sent.content_type)
    walker = StructureChecker(format_.walk)
    try:
        for chunk in [sent.content] if chunks is None else chunks:
            walker.feed(chunk)
        walker.end()
        check_complete_file(format_, BytesIO(sent.content), len(sent.content))
    except MalformedFile as broken:
        return str(broken)
    return None


def cut(content: bytes, lengths: Iterable[int]) -> Iterable[bytes]:
    """In chunks of those lengths, and a last one with the rest."""
    position = 0
    for length in lengths:
        yield content[position : position + length]
        position += length
    yield content[position:]
