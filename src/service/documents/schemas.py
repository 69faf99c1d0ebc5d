"""What documents look like on the wire."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from litestar.openapi.spec import (
    Encoding,
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from msgspec import UNSET, Meta, Struct, UnsetType

from service.documents.form import MULTIPART, PART
from service.documents.formats import FORMATS, PNG, ContentType, Format
from service.values import Count, Timestamp

Status = Literal["stored", "ready", "rejected"]


class Document(Struct):
    """A file that is what it says it is, as far as that can be told without decoding it."""

    id: UUID
    filename: Annotated[str, Meta(min_length=1, max_length=255, examples=["invoice.pdf"])]
    """As it was sent, without folders and what cannot be seen."""
    content_type: ContentType
    size_bytes: Count
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    status: Status
    """`stored`, until a worker has looked into it."""
    created_at: Timestamp
    width: Count | UnsetType = UNSET
    """Of an image that is ready, in pixels."""
    height: Count | UnsetType = UNSET
    pages: Count | UnsetType = UNSET
    """Of a PDF that is ready."""
    reason: str | UnsetType = UNSET
    """Why it was rejected."""


class Uploaded(Struct):
    size: Count
    id: UUID


@dataclass
class DocumentOperation(Operation):
    """An operation whose body only streams by, so that Litestar does not know of it."""

    formats: ClassVar[Sequence[Format]] = FORMATS

    def __post_init__(self) -> None:
        about = "With its name and type."
        file = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description=about)
        form = Schema(
            type=OpenAPIType.OBJECT, properties={PART: file}, required=[PART], additional_properties=False
        )
        types = ", ".join(format_.content_type for format_ in self.formats)
        body = OpenAPIMediaType(schema=form, encoding={PART: Encoding(content_type=types)})
        self.request_body = RequestBody(content={MULTIPART: body}, required=True)


@dataclass
class PictureOperation(DocumentOperation):
    formats = [PNG]
