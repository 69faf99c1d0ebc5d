"""API schemas of documents."""

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
    """A file whose content agrees with its declared type."""

    id: UUID
    filename: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=255,
            examples=["invoice.pdf"],
            description="The client's file name, without directories or invisible characters.",
        ),
    ]
    content_type: ContentType
    size_bytes: Count
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    status: Annotated[Status, Meta(description="`stored` until a worker has inspected the file.")]
    created_at: Timestamp
    width: Annotated[
        Count | UnsetType, Meta(description="Width in pixels after EXIF rotation; only for a ready image.")
    ] = UNSET
    height: Annotated[
        Count | UnsetType, Meta(description="Height in pixels after EXIF rotation; only for a ready image.")
    ] = UNSET
    pages: Annotated[Count | UnsetType, Meta(description="Number of pages; only for a ready PDF.")] = UNSET
    reason: Annotated[
        str | UnsetType, Meta(description="Reason for the rejection; only for a rejected file.")
    ] = UNSET


class Uploaded(Struct):
    size: Count
    """The same as `size_bytes`."""
    size_bytes: Count
    id: UUID


@dataclass
class DocumentOperation(Operation):
    """OpenAPI operation with a streamed body, which Litestar cannot describe."""

    formats: ClassVar[Sequence[Format]] = FORMATS

    def __post_init__(self) -> None:
        description = "The file, with its name and content type."
        file = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description=description)
        form = Schema(
            type=OpenAPIType.OBJECT, properties={PART: file}, required=[PART], additional_properties=False
        )
        types = ", ".join(format_.content_type for format_ in self.formats)
        body = OpenAPIMediaType(schema=form, encoding={PART: Encoding(content_type=types)})
        self.request_body = RequestBody(content={MULTIPART: body}, required=True)


@dataclass
class PictureOperation(DocumentOperation):
    formats = [PNG]
