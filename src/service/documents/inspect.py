"""`document.inspect`: looks into a stored document, and says whether it is what it seems."""

from functools import partial
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import UUID

from anyio import BrokenWorkerProcess
from msgspec import Struct
from uuid_utils.compat import uuid7

from service.blobs import FAILURES
from service.documents import archive, statements
from service.documents.archive import Filed
from service.documents.seen import Limits, Seen, Unfit, look
from service.errors import NotFound, Overloaded
from service.events.journal import WORKER, Author
from service.jobs.kinds import Kind
from service.jobs.task import JobFailed, Task
from service.settings import Settings

CRASHES_MAX = 2
"""A decoder that dies once may have been somebody else's victim."""
CRASHED = "it takes too much to decode"


class Inspect(Struct, forbid_unknown_fields=True):
    document_id: UUID


def inspection(settings: Settings) -> Kind:
    limits = Limits(
        settings.document_pixels_max, settings.document_memory_bytes_max, settings.document_cpu_seconds_max
    )
    return Kind(archive.INSPECT, Inspect, partial(inspect, limits))


async def inspect(limits: Limits, task: Task, payload: Inspect) -> dict[str, Any]:
    """Make a thumbnail, and find the size or the number of pages: `ready`. Or else: `rejected`.

    All that is committed together with the end of the job. A thumbnail that nothing names then is swept.
    """
    try:
        filed = await archive.read(task.database, payload.document_id)
        found = await _look(task, filed, limits)
        thumbnail = await _kept(task, found)
        return await _finish(task, filed.document.id, found, thumbnail)
    except NotFound:
        raise JobFailed("There is no such document") from None
    except FAILURES as error:  # says nothing of the document: the job waits for the store to be there again
        raise Overloaded("The storage is not available") from error


async def _look(task: Task, filed: Filed, limits: Limits) -> Seen | Unfit:
    with NamedTemporaryFile() as file:
        _, content = await task.blobs.get(filed.key)
        async for chunk in content:
            file.write(chunk)
        file.flush()
        try:
            return await task.in_process(look, file.name, filed.document.content_type, limits)
        except Unfit as unfit:
            task.log.info("document rejected", problem=unfit.problem, cause=unfit.cause)
            return unfit
        except BrokenWorkerProcess:
            if task.attempt < CRASHES_MAX:
                raise
            task.log.warning("document rejected", problem=CRASHED)
            return Unfit(CRASHED)


async def _kept(task: Task, found: Seen | Unfit) -> str | None:
    """Where the thumbnail is."""
    if isinstance(found, Unfit):
        return None
    key = f"{archive.THUMBNAILS}/{uuid7()}"
    await task.blobs.put(key, found.thumbnail)
    return key


async def _finish(
    task: Task, document_id: UUID, found: Seen | Unfit, thumbnail: str | None
) -> dict[str, Any]:
    seen, reason = (Seen(b""), found.problem) if isinstance(found, Unfit) else (found, None)
    status = "ready" if reason is None else "rejected"
    facts = (seen.width, seen.height, seen.pages)
    result = {"document_id": str(document_id), "status": status, "reason": reason}
    author = Author(WORKER.actor, str(task.id))  # the job's own event tells who asked for it
    row = (document_id, status, *facts, thumbnail, reason, author.actor, author.request_id)
    async with task.database.transaction() as connection:
        if await connection.fetchval(statements.INSPECTED, *row) is None:
            raise NotFound
        await task.finish(connection, result)
    return result
