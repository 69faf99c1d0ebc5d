"""The endpoints of documents."""

from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath
from litestar.response import Stream

from service.documents.download import THUMBNAIL_TYPE, download, download_thumbnail
from service.documents.form import MalformedMultipart
from service.documents.formats import FORMATS, PNG
from service.documents.intake import InvalidType, StorageUnavailable, UploadReceiver, UploadRules
from service.documents.ranges import RangeNotSatisfiable
from service.documents.schemas import Document, DocumentOperation, PictureOperation, Uploaded
from service.documents.store import DocumentStore, location
from service.errors import InvalidCursor, NotFound, RequestTimeout, TooLarge, UnsupportedMediaType
from service.http.idempotency import IDEMPOTENCY_FAULTS, hold_claim
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.reply import Reply
from service.http.request import StrictRequest
from service.settings import Settings

UPLOAD_FAULTS = [
    *(MalformedMultipart, InvalidType, RequestTimeout, TooLarge, UnsupportedMediaType, StorageUnavailable),
    *IDEMPOTENCY_FAULTS,
]

RANGE = ResponseSpec(bytes, generate_examples=False, description="The range that was asked for.")


class DocumentController(Controller):
    path = "/documents"
    tags = ["Documents"]

    @post(
        scope="documents:write",
        operation_class=DocumentOperation,
        request_max_body_size=None,  # the intake counts, and knows how much is the file's
        faults=UPLOAD_FAULTS,
    )
    async def store_document(
        self,
        intake: NamedDependency[UploadReceiver],
        archive: NamedDependency[DocumentStore],
        settings: NamedDependency[Settings],
        request: StrictRequest,
    ) -> Reply[Document]:
        """Store a PNG, a JPEG or a PDF, sent as the part `file` of a form.

        Its declared type has to be what it is, from the first byte to the last. A worker looks into it then.
        """
        limit = settings.document_bytes_max
        rules = UploadRules(
            FORMATS, limit, "Only PNG, JPEG and PDF files are allowed", f"Max {limit / 2**20:g} MiB"
        )
        async with hold_claim(request) as claim, intake.receive(request, rules) as received:
            document = await archive.store(received, request.author, received.claimed(claim), lambda d: d)
        return Reply(document, headers={"Location": location(document.id)})

    @get(scope="documents:read", faults=[InvalidCursor])
    async def list_documents(
        self,
        archive: NamedDependency[DocumentStore],
        request: StrictRequest,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Document]:
        """List documents, newest first."""
        pager = Pager[UUID](request, limit, cursor, UUID)
        documents = await archive.page(pager.after, pager.fetch_limit)
        return pager.page(documents, lambda document: document.id)

    @get("/{document_id:str}", scope="documents:read", faults=[NotFound])
    async def get_document(
        self, archive: NamedDependency[DocumentStore], document_id: FromPath[UUID]
    ) -> Document:
        """Read what is known of a document."""
        return (await archive.read(document_id)).document

    @get(
        "/{document_id:str}/content",
        scope="documents:read",
        media=[format_.content_type for format_ in FORMATS],
        conditional=True,
        responses={206: RANGE},
        faults=[NotFound, RangeNotSatisfiable, StorageUnavailable],
    )
    async def get_content(
        self, archive: NamedDependency[DocumentStore], request: StrictRequest, document_id: FromPath[UUID]
    ) -> Stream:
        """Download a document as it was sent.

        Takes `If-None-Match` (304), and one `Range` of bytes (206, 416) with `If-Range`. Of several ranges
        the whole is sent.
        """
        filed = await archive.read(document_id)
        return await download(archive, request, filed)

    @get(
        "/{document_id:str}/thumbnail",
        scope="documents:read",
        media=[THUMBNAIL_TYPE],
        conditional=True,
        faults=[NotFound, StorageUnavailable],
    )
    async def get_thumbnail(
        self, archive: NamedDependency[DocumentStore], request: StrictRequest, document_id: FromPath[UUID]
    ) -> Stream:
        """Download a small picture of a document: WebP, 256 pixels along its longer side.

        404 until a worker has made it. Takes `If-None-Match` (304).
        """
        filed = await archive.read(document_id)
        return await download_thumbnail(archive, request, filed)

    @delete("/{document_id:str}", scope="documents:write", faults=[NotFound])
    async def delete_document(
        self, archive: NamedDependency[DocumentStore], request: StrictRequest, document_id: FromPath[UUID]
    ) -> None:
        """Delete a document, and its bytes unless another document has the same."""
        await archive.remove(document_id, request.author)


class UploadController(Controller):
    path = "/upload"
    tags = ["Documents"]

    @post(
        scope="documents:write",
        operation_class=PictureOperation,
        request_max_body_size=None,
        faults=UPLOAD_FAULTS,
    )
    async def upload(
        self,
        intake: NamedDependency[UploadReceiver],
        archive: NamedDependency[DocumentStore],
        settings: NamedDependency[Settings],
        request: StrictRequest,
    ) -> Reply[Uploaded]:
        """Store a PNG, sent as the part `file` of a form. It is a document like others."""
        limit = settings.upload_bytes_max
        rules = UploadRules([PNG], limit, "Only PNG allowed", f"Max {limit / 1e6:g}MB")
        async with hold_claim(request) as claim, intake.receive(request, rules) as received:
            document = await archive.store(received, request.author, received.claimed(claim), uploaded)
        return Reply(uploaded(document), headers={"Location": location(document.id)})


def uploaded(document: Document) -> Uploaded:
    return Uploaded(document.size_bytes, document.id)
