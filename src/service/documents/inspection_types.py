"""Types that the worker and a decoder process exchange. Only the decoder process imports the decoders."""

from typing import TypeAlias

from msgspec import Struct

STARTED = b"\1"
"""The first byte of a decoder's output. Without it, the process died before it touched the file."""


class DecodingLimits(Struct, frozen=True):
    """Limits for decoding one file."""

    pixels: int
    memory_bytes: int
    cpu_seconds: int


class InspectionResult(Struct, frozen=True, tag=True):
    """The result of a successful decoding.

    `thumbnail` is WebP without metadata; `width` and `height` are an image's size in pixels, after EXIF
    rotation.
    """

    thumbnail: bytes
    width: int | None = None
    height: int | None = None
    pages: int | None = None


class Rejection(Struct, frozen=True, tag=True):
    """The reason for a rejection. `problem` is shown to clients; `cause` is the decoder's message."""

    problem: str
    cause: str = ""


Outcome: TypeAlias = InspectionResult | Rejection
