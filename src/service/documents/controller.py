"""HTTP endpoints of documents."""

from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath
from litestar.response import Stream

from service.blobs import StorageUnavailable
from service.database.session import Session
from service.documents import store
from service.documents.download import THUMBNAIL_TYPE, download, download_thumbnail
from service.documents.form import MalformedMultipart
from service.documents.formats import FORMATS, PNG
from service.documents.ranges import RangeNotSatisfiable
from service.documents.schemas import Document, DocumentOperation, PictureOperation, Uploaded
from service.documents.store import DocumentStore, location
from service.documents.upload import InvalidType, UploadReceiver, UploadRules
from service.errors import (
    InvalidCursor,
    NotFound,
    PreconditionFailed,
    RequestTimeout,
    TooLarge,
    UnsupportedMediaType,
)
from service.http.idempotency import hold_claim
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.reply import Reply, if_match_tags, tagged_reply
from service.http.request import StrictRequest
from service.idempotency.replies import IDEMPOTENCY_FAULTS
from service.settings import Settings

UPLOAD_FAULTS = [
    *(MalformedMultipart, InvalidType, RequestTimeout, TooLarge, UnsupportedMediaType, StorageUnavailable),
    *IDEMPOTENCY_FAULTS,
]

RANGE = ResponseSpec(bytes, generate_examples=False, description="The requested byte range.")


class DocumentController(Controller):
    path = "/documents"
    tags = ["Documents"]

    @post(
        operation_class=DocumentOperation,
        request_max_body_size=None,  # `UploadReceiver` limits the body
        opt=operation(scope="documents:write", faults=UPLOAD_FAULTS),
    )
    async def store_document(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
    ) -> Reply[Document]:
        """Upload a PNG, JPEG or PDF

        Send the file as the form part `file`. It must be complete, and its content must agree with the
        declared type. A worker then decodes it and makes a thumbnail.
        """
        limit = request.component(Settings).document_bytes_max
        rules = UploadRules(
            FORMATS, limit, "Only PNG, JPEG and PDF files are allowed", f"Max {limit / 2**20:g} MiB"
        )
        receiver = request.component(UploadReceiver)
        async with hold_claim(request) as claim, receiver.receive(request, rules) as received:
            document = await request.component(DocumentStore).store(
                session, received, request.author, received.fingerprinted(claim), lambda document: document
            )
        return Reply(document, headers={"Location": location(document.id)})

    @get(opt=operation(scope="documents:read", faults=[InvalidCursor]))
    async def list_documents(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Document]:
        """List documents, newest first"""
        pager = Pager[UUID](request, limit, cursor, UUID)
        documents = await store.list_documents(session, pager.after, pager.fetch_limit)
        return pager.page(documents, lambda document: document.id)

    @get("/{document_id:str}", opt=operation(scope="documents:read", conditional=True, faults=[NotFound]))
    async def get_document(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        document_id: FromPath[UUID],
    ) -> Reply[Document]:
        """Read a document's metadata

        Supports `If-None-Match` (304).
        """
        return tagged_reply(request, (await store.read(session, document_id)).document)

    @get(
        "/{document_id:str}/content",
        responses={206: RANGE},
        opt=operation(
            scope="documents:read",
            media=[format_.content_type for format_ in FORMATS],
            conditional=True,
            faults=[NotFound, RangeNotSatisfiable, StorageUnavailable],
        ),
    )
    async def get_content(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        document_id: FromPath[UUID],
    ) -> Stream:
        """Download a document

        Supports `If-None-Match` (304), and a `Range` of bytes (206, 416) with `If-Range`. A request for
        several ranges gets the whole file.
        """
        stored = await store.read(session, document_id)
        return await download(request.component(DocumentStore), request, stored)

    @get(
        "/{document_id:str}/thumbnail",
        opt=operation(
            scope="documents:read",
            media=[THUMBNAIL_TYPE],
            conditional=True,
            faults=[NotFound, StorageUnavailable],
        ),
    )
    async def get_thumbnail(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        document_id: FromPath[UUID],
    ) -> Stream:
        """Download a thumbnail

        The thumbnail is WebP, with at most 256 pixels on its longer side. The reply is 404 until a worker has
        made it. Supports `If-None-Match` (304).
        """
        stored = await store.read(session, document_id)
        return await download_thumbnail(request.component(DocumentStore), request, stored)

    @delete(
        "/{document_id:str}", opt=operation(scope="documents:write", faults=[NotFound, PreconditionFailed])
    )
    async def delete_document(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        document_id: FromPath[UUID],
    ) -> None:
        """Delete a document

        Its content is deleted too unless another document shares it.
        """
        by = request.author
        await request.component(DocumentStore).delete(session, document_id, by, if_match_tags(request))


class UploadController(Controller):
    path = "/upload"
    tags = ["Documents"]

    @post(
        operation_class=PictureOperation,
        request_max_body_size=None,
        opt=operation(scope="documents:write", faults=UPLOAD_FAULTS),
    )
    async def upload(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
    ) -> Reply[Uploaded]:
        """Upload a PNG

        Send the file as the form part `file`. It is stored as a regular document.
        """
        limit = request.component(Settings).upload_bytes_max
        rules = UploadRules([PNG], limit, "Only PNG allowed", f"Max {limit / 1e6:g}MB")
        receiver = request.component(UploadReceiver)
        async with hold_claim(request) as claim, receiver.receive(request, rules) as received:
            document = await request.component(DocumentStore).store(
                session, received, request.author, received.fingerprinted(claim), upload_result
            )
        return Reply(upload_result(document), headers={"Location": location(document.id)})


def upload_result(document: Document) -> Uploaded:
    return Uploaded(document.size_bytes, document.size_bytes, document.id)
