"""Results of document inspection, separate from the decoders: the API never decodes and saves 5 MiB."""

from typing import NamedTuple


class DecodingLimits(NamedTuple):
    """Limits for decoding one file."""

    pixels: int
    memory_bytes: int
    cpu_seconds: int


class InspectionResult(NamedTuple):
    """The result of a successful decoding.

    `thumbnail` is WebP without metadata; `width` and `height` are an image's size in pixels.
    """

    thumbnail: bytes
    width: int | None = None
    height: int | None = None
    pages: int | None = None


class DocumentRejected(Exception):
    """A rejected file. `problem` is shown to clients; `cause` is the decoder's message."""

    def __init__(self, problem: str, cause: str = "") -> None:
        super().__init__(problem, cause)
        self.problem = problem
        self.cause = cause


def inspect_file(path: str, content_type: str, limits: DecodingLimits) -> InspectionResult:
    """Import `decoding` and call its `inspect_file`: the entry point of a new process."""
    from service.documents import decoding  # noqa: PLC0415  # the API must not load the decoders

    return decoding.inspect_file(path, content_type, limits)
