"""The checks of a format, applied as an upload applies them."""

from samples import Sample

from service.documents.formats import FORMATS
from service.documents.structure import MalformedFile


def problem(sent: Sample) -> str | None:
    """Return what is wrong with a file, or None."""
    (format_,) = (known for known in FORMATS if known.content_type == sent.content_type)
    try:
        format_.check_start(sent.content[:1000])
        format_.check(sent.content)
    except MalformedFile as malformed:
        return str(malformed)
    return None
