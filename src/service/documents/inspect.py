"""`document.inspect`: looks into a stored document, and says whether it is what it seems."""

from functools import partial
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import UUID

from anyio import BrokenWorkerProcess
from msgspec import Struct
from uuid_utils.compat import uuid7

from service.blobs import STORAGE_ERRORS
from service.documents import statements, store
from service.documents.inspection_types import (
    DecodingLimits,
    DocumentRejected,
    InspectionResult,
    inspect_file,
)
from service.documents.store import StoredDocument
from service.errors import NotFound, Overloaded
from service.events.journal import WORKER, Author
from service.jobs.context import JobContext, JobFailed
from service.jobs.kinds import Kind
from service.settings import Settings

CRASHES_MAX = 2
"""A decoder that dies once may have been somebody else's victim."""
DECODER_CRASHED = "it takes too much to decode"


class Inspect(Struct, forbid_unknown_fields=True):
    document_id: UUID


def inspection_kind(settings: Settings) -> Kind:
    limits = DecodingLimits(
        settings.document_pixels_max, settings.document_memory_bytes_max, settings.document_cpu_seconds_max
    )
    return Kind(store.INSPECT, Inspect, partial(inspect, limits))


async def inspect(limits: DecodingLimits, task: JobContext, payload: Inspect) -> dict[str, Any]:
    """Make a thumbnail, and find the size or the number of pages: `ready`. Or else: `rejected`.

    All that is committed together with the end of the job. A thumbnail that nothing names then is swept.
    """
    try:
        filed = await store.read(task.database, payload.document_id)
        found = await _decode(task, filed, limits)
        thumbnail = await _store_thumbnail(task, found)
        return await _finish(task, filed.document.id, found, thumbnail)
    except NotFound:
        raise JobFailed("There is no such document") from None
    except (
        STORAGE_ERRORS
    ) as error:  # says nothing of the document: the job waits for the store to be there again
        raise Overloaded("The storage is not available") from error


async def _decode(
    task: JobContext, filed: StoredDocument, limits: DecodingLimits
) -> InspectionResult | DocumentRejected:
    with NamedTemporaryFile() as file:
        _, content = await task.blobs.get(filed.key)
        async for chunk in content:
            file.write(chunk)
        file.flush()
        try:
            return await task.run_in_process(inspect_file, file.name, filed.document.content_type, limits)
        except DocumentRejected as unfit:
            task.log.info("document rejected", problem=unfit.problem, cause=unfit.cause)
            return unfit
        except BrokenWorkerProcess:
            if task.attempt < CRASHES_MAX:
                raise
            task.log.warning("document rejected", problem=DECODER_CRASHED)
            return DocumentRejected(DECODER_CRASHED)


async def _store_thumbnail(task: JobContext, found: InspectionResult | DocumentRejected) -> str | None:
    """Where the thumbnail is."""
    if isinstance(found, DocumentRejected):
        return None
    key = f"{store.THUMBNAIL_PREFIX}/{uuid7()}"
    await task.blobs.put(key, found.thumbnail)
    return key


async def _finish(
    task: JobContext, document_id: UUID, found: InspectionResult | DocumentRejected, thumbnail: str | None
) -> dict[str, Any]:
    seen, reason = (
        (InspectionResult(b""), found.problem) if isinstance(found, DocumentRejected) else (found, None)
    )
    status = "ready" if reason is None else "rejected"
    facts = (seen.width, seen.height, seen.pages)
    result = {"document_id": str(document_id), "status": status, "reason": reason}
    author = Author(WORKER.actor, str(task.id))  # the job's own event tells who asked for it
    row = (document_id, status, *facts, thumbnail, reason, author.actor, author.request_id)
    async with task.database.transaction() as connection:
        if await connection.fetchval(statements.RECORD_INSPECTION, *row) is None:
            raise NotFound
        await task.finish(connection, result)
    return result
