"""Document storage.

The blob is stored before the row that references it, so that no row references a missing blob. The blob of an
interrupted request is an orphan, which `orphans.py` deletes later.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from msgspec import UNSET, Struct
from msgspec.structs import asdict
from uuid_utils.compat import uuid7

from service.blobs import STORAGE_ERRORS, BlobStore, StorageUnavailable
from service.database.session import Session
from service.documents import statements
from service.documents.ranges import Range
from service.documents.schemas import Document
from service.documents.upload import ReceivedFile
from service.errors import NotFound, check_tag
from service.events.journal import Author
from service.idempotency.replies import (
    Claim,
    IdempotencyInProgress,
    StoredReply,
    raise_stored_outcome,
    reply_arguments,
)
from service.jobs import statements as jobs
from service.jobs.queue import enqueue
from service.values import content_tag, encode_json

log = structlog.get_logger()

CONTENT_PREFIX, THUMBNAIL_PREFIX = "documents", "thumbnails"
"""Prefixes of blob keys."""
INSPECT = "document.inspect"


class StoredDocument(NamedTuple):
    """A document and the keys of its blobs."""

    document: Document
    key: str
    thumbnail: str | None


class DocumentStore:
    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def store(
        self,
        session: Session,
        received: ReceivedFile,
        author: Author,
        claim: Claim | None,
        reply: Callable[[Document], Struct],
    ) -> Document:
        """Store a received file.

        `reply` builds the body of the reply, which is stored for a replay. Raises `Replay` if the claim
        already has a stored reply.
        """
        await raise_stored_outcome(session, claim)
        document = _new(received)
        key = f"{CONTENT_PREFIX}/{document.id}"
        session.release()  # the blob store can be slow
        await self._blobs.commit_staging_file(key, received.file)
        replies = [] if claim is None else [_stored_reply(claim, document, reply)]
        content_key = await self._create(session, document, received.sha256, key, author, replies)
        if content_key != key:  # the same content is stored already, or the claim is taken
            session.release()
            await self._delete_blob(key)
        if content_key is None:
            await raise_stored_outcome(session, claim)
            raise IdempotencyInProgress
        return document

    async def open_blob(self, key: str, byte_range: Range | None = None) -> tuple[int, AsyncIterator[bytes]]:
        """Return a blob's size in bytes and its content or a range of it. Raises `NotFound`."""
        try:
            return await self._blobs.get(key, byte_range)
        except STORAGE_ERRORS as error:
            raise StorageUnavailable from error

    async def delete(
        self, session: Session, document_id: UUID, author: Author, tags: list[str] | None = None
    ) -> None:
        """Delete a document. Raises `PreconditionFailed` unless its tag is among `tags`; None accepts any."""
        async with session.transaction():
            if tags is not None:
                await _check_tag(session, document_id, tags)
            by = (author.actor, author.request_id)
            row = await session.fetchrow(statements.DELETE, document_id, *by)
            if row is None:
                raise NotFound
            key = await session.fetchval(statements.DELETE_UNUSED_CONTENT, row["sha256"])
        session.release()
        for unused_key in filter(None, (key, row["thumbnail"])):
            await self._delete_blob(unused_key)

    async def _create(
        self,
        session: Session,
        document: Document,
        sha256: bytes,
        key: str,
        author: Author,
        replies: list[StoredReply],
    ) -> str | None:
        """Insert the document and its inspection job.

        Return the blob key of the content, which is an older one if the same content is stored already, or
        None if the claim is taken.
        """
        fields = {name: getattr(document, name) for name in statements.CREATED_FIELDS}
        by = asdict(author)
        arguments = statements.CREATE(**fields, sha256=sha256, key=key, **by, **reply_arguments(replies))
        async with session.transaction():
            content_key: str | None = await session.fetchval(*arguments)
            if content_key is not None:
                job_id = uuid7()
                (queue_id,) = await enqueue(session, [job_id])
                payload = {"document_id": str(document.id)}
                job = {"id": job_id, "kind": INSPECT, "payload": payload, "queue_id": queue_id}
                await session.execute(*jobs.CREATE(**job, **by, **reply_arguments([])))
        return content_key

    async def _delete_blob(self, key: str) -> None:
        try:
            await self._blobs.delete(key)
        except STORAGE_ERRORS as error:  # no row references it; `orphans.py` deletes it later
            log.warning("orphan_blob_left", key=key, cause=repr(error))


async def list_documents(session: Session, after: UUID | None, limit: int) -> list[Document]:
    """Return a page of documents, newest first."""
    return [_document(row) for row in await statements.LIST.fetch(session, {"after": after}, limit)]


async def read(session: Session, document_id: UUID) -> StoredDocument:
    """Read a document and release the connection: the blob store, which may be read next, can be slow."""
    row = await session.fetchrow(statements.READ, document_id)
    session.release()
    if row is None:
        raise NotFound
    *facts, key, thumbnail = row
    return StoredDocument(_document(facts), key, thumbnail)


async def _check_tag(session: Session, document_id: UUID, tags: list[str]) -> None:
    row = await session.fetchrow(f"{statements.READ} for update of d", document_id)
    if row is None:
        raise NotFound
    *facts, _, _ = row
    check_tag(content_tag(encode_json(_document(facts))), tags)


def location(document_id: UUID) -> str:
    return f"/documents/{document_id}"


def _new(received: ReceivedFile) -> Document:
    return Document(
        id=uuid7(),
        filename=received.filename,
        content_type=received.format.content_type,
        size_bytes=received.size_bytes,
        sha256=received.sha256.hex(),
        status="stored",
        created_at=datetime.now(UTC),
    )


def _stored_reply(claim: Claim, document: Document, reply: Callable[[Document], Struct]) -> StoredReply:
    return StoredReply(claim, 201, {"Location": location(document.id)}, encode_json(reply(document)))


def _document(row: Iterable[Any]) -> Document:
    """Build a document. Null columns are omitted from replies."""
    values: list[Any] = [UNSET if value is None else value for value in row]
    return Document(*values)
