"""Job `document.inspect`: decode a stored document and mark it ready or rejected."""

from functools import partial
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import UUID

from msgspec import Struct
from uuid_utils.compat import uuid7

from service.blobs import STORAGE_ERRORS
from service.documents import statements, store
from service.documents.decoder import Decoder, DecoderCrashed
from service.documents.inspection_types import DecodingLimits, InspectionResult, Outcome, Rejection
from service.documents.store import StoredDocument
from service.errors import NotFound, Overloaded
from service.events.journal import WORKER, Author
from service.jobs.context import JobContext, JobFailed
from service.jobs.kinds import Kind
from service.settings import Settings

CRASHES_MAX = 2
"""Decoder crashes before a rejection. A single crash may have an outside cause, such as the OOM killer."""
DECODER_CRASHED = "decoding the file exceeds the resource limits"


class Inspect(Struct, forbid_unknown_fields=True):
    document_id: UUID


def inspection_kind(settings: Settings) -> Kind:
    limits = DecodingLimits(
        settings.document_pixels_max, settings.document_memory_bytes_max, settings.document_cpu_seconds_max
    )
    decoder = Decoder(limits, settings.document_inspections_max)
    return Kind(store.INSPECT, Inspect, partial(inspect, decoder))


async def inspect(decoder: Decoder, context: JobContext, payload: Inspect) -> dict[str, Any]:
    """Make a thumbnail and record the image size or page count (`ready`), or reject the document.

    The result commits together with the end of the job. An unreferenced thumbnail is swept.
    """
    try:
        async with context.database.session() as session:
            stored = await store.read(session, payload.document_id)
        outcome = await _decode(decoder, context, stored)
        thumbnail = await _store_thumbnail(context, outcome)
        return await _finish(context, stored.document.id, outcome, thumbnail)
    except NotFound:
        raise JobFailed("The document does not exist") from None
    except STORAGE_ERRORS as error:  # no fault of the document: the job is retried when the store is back
        raise Overloaded("The file storage is unavailable") from error


async def _decode(decoder: Decoder, context: JobContext, stored: StoredDocument) -> Outcome:
    with NamedTemporaryFile() as file:
        _, content = await context.blobs.get(stored.key)
        async for chunk in content:
            file.write(chunk)
        file.flush()
        try:
            outcome = await decoder.inspect(file.name, stored.document.content_type)
        except DecoderCrashed:
            if context.attempt < CRASHES_MAX:
                raise
            outcome = Rejection(DECODER_CRASHED)
    if isinstance(outcome, Rejection):
        context.log.info("document_rejected", problem=outcome.problem, cause=outcome.cause)
    return outcome


async def _store_thumbnail(context: JobContext, outcome: Outcome) -> str | None:
    """Store the thumbnail and return its key."""
    if isinstance(outcome, Rejection):
        return None
    key = f"{store.THUMBNAIL_PREFIX}/{uuid7()}"
    await context.blobs.put(key, outcome.thumbnail)
    return key


async def _finish(
    context: JobContext,
    document_id: UUID,
    outcome: Outcome,
    thumbnail: str | None,
) -> dict[str, Any]:
    result, reason = (
        (InspectionResult(b""), outcome.problem) if isinstance(outcome, Rejection) else (outcome, None)
    )
    status = "ready" if reason is None else "rejected"
    facts = (result.width, result.height, result.pages)
    job_result = {"document_id": str(document_id), "status": status, "reason": reason}
    author = Author(WORKER.actor, str(context.id))  # the job's first event records who requested it
    row = (document_id, status, *facts, thumbnail, reason, author.actor, author.request_id)
    async with context.database.session() as session, session.transaction():
        if await session.fetchval(statements.RECORD_INSPECTION, *row) is None:
            raise NotFound
        await context.succeed(session, job_result)
    return job_result
