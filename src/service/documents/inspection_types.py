"""What is found in a file that nobody vouches for.

Apart from the decoders, which are in `picture`: the API, which never decodes, is 5 MiB smaller without them.
"""

from typing import NamedTuple


class DecodingLimits(NamedTuple):
    """For one file."""

    pixels: int
    memory_bytes: int
    cpu_seconds: int


class InspectionResult(NamedTuple):
    """`thumbnail` is WebP without metadata; `width` and `height` are those of an image, in pixels."""

    thumbnail: bytes
    width: int | None = None
    height: int | None = None
    pages: int | None = None


class DocumentRejected(Exception):
    """Why a file is rejected, in words for clients, and what a decoder had to say."""

    def __init__(self, problem: str, cause: str = "") -> None:
        super().__init__(problem, cause)
        self.problem = problem
        self.cause = cause


def inspect_file(path: str, content_type: str, limits: DecodingLimits) -> InspectionResult:
    """As `decoding.inspect_file`, for a process that has not imported it yet."""
    from service.documents import decoding  # noqa: PLC0415  # see above

    return decoding.inspect_file(path, content_type, limits)
