"""What a process that only serves does with the queue.

PgQueuer is imported when there is something to queue: it costs 130 ms and 6 MiB. In a thread, since an event
loop that stands still for so long may take the database for silent (see `service.database.monitor`).
"""

import asyncio
from collections.abc import Sequence
from types import ModuleType
from uuid import UUID

from service.database.session import Session

_imported: ModuleType | None = None


async def enqueue(session: Session, job_ids: Sequence[UUID]) -> list[int]:
    """In the transaction of `session`: workers are told when it commits. Returns the entries' ids."""
    adapter = await _adapter()
    count = len(job_ids)
    entries = await adapter.queries(adapter.JsonbDriver(await session.connection())).enqueue(
        [adapter.ENTRYPOINT] * count, [job_id.bytes for job_id in job_ids], [0] * count
    )
    return list(entries)


async def notify_cancellation(session: Session, queue_id: int) -> None:
    """Tell the worker that may have begun an entry to stop, when the transaction commits."""
    adapter = await _adapter()
    await adapter.queries(adapter.JsonbDriver(await session.connection())).notify_job_cancellation(
        [adapter.JobId(queue_id)]
    )


async def _adapter() -> ModuleType:
    global _imported  # noqa: PLW0603  # a module is imported once
    if _imported is None:
        _imported = await asyncio.to_thread(_import)
    return _imported


def _import() -> ModuleType:
    from service.jobs import pgqueuer_adapter  # noqa: PLC0415  # see the module's docstring

    return pgqueuer_adapter
