"""Streaming parser of a multipart/form-data body (RFC 7578) with one file."""

from collections.abc import AsyncIterator, Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import cast

from litestar.types import HTTPReceiveMessage
from msgspec import Struct
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from service.errors import ClientClosedRequest, Detail, Fault, UnsupportedMediaType, ValidationFailed
from service.http.request import StrictRequest
from service.http.validation import pointer_step

MULTIPART = "multipart/form-data"
PART = "file"
BOUNDARY_LENGTH_MAX = 70
"""Maximum length of a boundary (RFC 2046 §5.1.1)."""
PART_HEADERS_MAX = 8
PART_HEADER_BYTES_MAX = 4096


class MalformedMultipart(Fault):
    status, code, message = 400, "MALFORMED_MULTIPART", "The request body is not valid multipart/form-data"


class FilePart(Struct, frozen=True):
    """File name and type as declared by the client."""

    filename: str
    content_type: str


class SingleFileForm:
    """A form with the single part `file`.

    Raises `UnsupportedMediaType`, `MalformedMultipart`, or `ValidationFailed` for other parts.
    """

    def __init__(self, request: StrictRequest) -> None:
        media_type, options = request.content_type
        boundary = options.get("boundary", "")
        if media_type != MULTIPART:
            raise UnsupportedMediaType(f"The Content-Type must be {MULTIPART}", headers={"Accept": MULTIPART})
        request.reject_content_encoding()
        if not boundary.isascii() or not 1 <= len(boundary) <= BOUNDARY_LENGTH_MAX:
            raise MalformedMultipart("The multipart boundary is missing or invalid")
        self._parser = PushMultipartParser(
            boundary, max_header_size=PART_HEADER_BYTES_MAX, max_header_count=PART_HEADERS_MAX
        )
        self._part_seen = False

    def feed(self, chunk: bytes) -> Iterator[FilePart | bytes]:
        """Parse a chunk: yield the part once, then its bytes. An empty chunk ends the body."""
        try:
            for event in self._parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    yield self._start_part(event)
                elif event:
                    yield event
        except MultipartError:
            raise MalformedMultipart from None
        if not chunk and not self._part_seen:
            raise _invalid(f"/{PART}", "is required")

    def _start_part(self, segment: MultipartSegment) -> FilePart:
        name = segment.name or ""
        if name != PART:
            details = [Detail(pointer_step(name), f"is not a known part; send only `{PART}`")]
            if not self._part_seen:
                details.append(Detail(f"/{PART}", "must be the first and only part"))
            raise ValidationFailed(details)
        if self._part_seen:
            raise _invalid(f"/{PART}", "must be sent only once")
        filename = _filename(segment)
        if filename is None:
            raise _invalid(f"/{PART}", "must be a file: the part needs a file name")
        self._part_seen = True
        return FilePart(filename, segment.content_type or "text/plain")


async def chunks(request: StrictRequest) -> AsyncIterator[bytes]:
    """Yield the body in chunks, then an empty one. Raises `ClientClosedRequest`.

    Litestar's `stream` would add a generator, and a limit that `UploadReceiver` enforces already.
    """
    more = True
    while more:
        message = cast("HTTPReceiveMessage", await request.receive())
        if message["type"] == "http.disconnect":
            raise ClientClosedRequest
        more = message.get("more_body", False)
        if chunk := message.get("body"):
            yield chunk
    yield b""


def _filename(segment: MultipartSegment) -> str | None:
    """Return the part's file name.

    `filename*` (RFC 8187) takes precedence over `filename`: .NET sends both, and some clients only
    `filename*`.
    """
    header = Message()
    header["Content-Disposition"] = segment["Content-Disposition"]
    for name, value in header.get_params([], "content-disposition"):
        if name == "filename" and isinstance(value, tuple):
            return collapse_rfc2231_value(value)
    return None if segment.filename is None else _decode_words(segment.filename)


def _decode_words(name: str) -> str:
    """Decode a name that an old mail library sent as encoded words (RFC 2047)."""
    if not (name.startswith("=?") and name.endswith("?=")):
        return name
    try:
        return str(make_header(decode_header(name)))
    except (HeaderParseError, LookupError, ValueError):  # not encoded words after all
        return name


def _invalid(field: str, message: str) -> ValidationFailed:
    return ValidationFailed([Detail(field, message)])
