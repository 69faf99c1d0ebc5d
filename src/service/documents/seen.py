"""What is found in a file that nobody vouches for.

Apart from the decoders, which are in `picture`: the API, which never decodes, is 5 MiB smaller without them.
"""

from typing import NamedTuple


class Limits(NamedTuple):
    """For one file."""

    pixels: int
    memory_bytes: int
    cpu_seconds: int


class Seen(NamedTuple):
    """`thumbnail` is WebP without metadata; `width` and `height` are those of an image, in pixels."""

    thumbnail: bytes
    width: int | None = None
    height: int | None = None
    pages: int | None = None


class Unfit(Exception):
    """Why a file is rejected, in words for clients, and what a decoder had to say."""

    def __init__(self, problem: str, cause: str = "") -> None:
        super().__init__(problem, cause)
        self.problem = problem
        self.cause = cause


def look(path: str, content_type: str, limits: Limits) -> Seen:
    """As `picture.look`, for a process that has not imported it yet."""
    from service.documents import picture  # noqa: PLC0415  # see above

    return picture.look(path, content_type, limits)
