"""The one file of a multipart/form-data body (RFC 7578), piece by piece as it arrives."""

from collections.abc import AsyncIterator, Iterator

from litestar.exceptions import InternalServerException
from msgspec import Struct
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from service.errors import ClientClosedRequest, Detail, Fault, UnsupportedMediaType, ValidationFailed
from service.http.request import StrictRequest
from service.http.validation import pointer_step

MULTIPART = "multipart/form-data"
PART = "file"
BOUNDARY_LENGTH_MAX = 70
"""RFC 2046 §5.1.1."""
PART_HEADERS_MAX = 8
PART_HEADER_BYTES_MAX = 4096


class MalformedMultipart(Fault):
    status, code, message = 400, "MALFORMED_MULTIPART", "The request body is not valid multipart/form-data"


class FilePart(Struct, frozen=True):
    """What a client says about the file it sends."""

    filename: str
    content_type: str


class SingleFileForm:
    """A body with the part `file` and nothing else.

    Raises `UnsupportedMediaType`, `MalformedMultipart`, or `ValidationFailed` for other parts than that one.
    """

    def __init__(self, request: StrictRequest) -> None:
        media_type, options = request.content_type
        boundary = options.get("boundary", "")
        if media_type != MULTIPART:
            raise UnsupportedMediaType(
                f"The request body has to be {MULTIPART}", headers={"Accept": MULTIPART}
            )
        request.reject_content_encoding()
        if not boundary.isascii() or not 1 <= len(boundary) <= BOUNDARY_LENGTH_MAX:
            raise MalformedMultipart("The boundary is missing, or is none")
        self._parser = PushMultipartParser(
            boundary, max_header_size=PART_HEADER_BYTES_MAX, max_header_count=PART_HEADERS_MAX
        )
        self._part_seen = False

    def feed(self, chunk: bytes) -> Iterator[FilePart | bytes]:
        """The part, once, and then its bytes. An empty chunk is the end of the body."""
        try:
            for event in self._parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    yield self._begin(event)
                elif event:
                    yield event
        except MultipartError:
            raise MalformedMultipart from None
        if not chunk and not self._part_seen:
            raise _invalid(f"/{PART}", "the part is missing")

    def _begin(self, segment: MultipartSegment) -> FilePart:
        name = segment.name or ""
        if name != PART:
            details = [Detail(pointer_step(name), f"there is no such part, only {PART}")]
            if not self._part_seen:
                details.append(Detail(f"/{PART}", "the part has to be the first, and the only one"))
            raise ValidationFailed(details)
        if self._part_seen:
            raise _invalid(f"/{PART}", "the part is there twice")
        if segment.filename is None:
            raise _invalid(f"/{PART}", "the part is text and no file")
        self._part_seen = True
        return FilePart(segment.filename, segment.content_type or "text/plain")


async def chunks(request: StrictRequest) -> AsyncIterator[bytes]:
    """The body as it comes in, and last an empty chunk. Raises `ClientClosedRequest`."""
    try:
        async for chunk in request.stream():
            yield chunk
    except InternalServerException:  # what Litestar makes of a client that left half way
        raise ClientClosedRequest from None


def _invalid(field: str, message: str) -> ValidationFailed:
    return ValidationFailed([Detail(field, message)])
