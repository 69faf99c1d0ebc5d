"""What documents look like on the wire."""

from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from msgspec import UNSET, Meta, Struct, UnsetType

from service.documents.form import MULTIPART, PART
from service.documents.formats import ContentType
from service.values import Timestamp

Status = Literal["stored", "ready", "rejected"]


class Document(Struct):
    """A file that is what it says it is, as far as that can be told without decoding it."""

    id: UUID
    filename: Annotated[str, Meta(min_length=1, max_length=255, examples=["invoice.pdf"])]
    """As it was sent, without folders and what cannot be seen."""
    content_type: ContentType
    size_bytes: int
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    status: Status
    """`stored`, until a worker has looked into it."""
    created_at: Timestamp
    width: int | UnsetType = UNSET
    """Of an image that is ready, in pixels."""
    height: int | UnsetType = UNSET
    pages: int | UnsetType = UNSET
    """Of a PDF that is ready."""
    reason: str | UnsetType = UNSET
    """Why it was rejected."""


class Uploaded(Struct):
    size: int
    id: UUID


@dataclass
class UploadOperation(Operation):
    """An operation whose body only streams by, so that Litestar does not know of it."""

    def __post_init__(self) -> None:
        about = "With its name and type."
        file = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description=about)
        form = Schema(
            type=OpenAPIType.OBJECT, properties={PART: file}, required=[PART], additional_properties=False
        )
        self.request_body = RequestBody(content={MULTIPART: OpenAPIMediaType(schema=form)}, required=True)
