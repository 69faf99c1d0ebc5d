"""Queue operations of API processes.

PgQueuer is imported on first use (130 ms, 6 MiB), in a thread: if the event loop were blocked for so long,
the monitor could report the database as down (see `service.database.monitor`).
"""

import asyncio
from collections.abc import Sequence
from types import ModuleType
from uuid import UUID

from service.database.session import Session

_imported: ModuleType | None = None


async def enqueue(session: Session, job_ids: Sequence[UUID]) -> list[int]:
    """Enqueue jobs in the transaction of `session`, whose commit notifies workers. Return the entry ids."""
    adapter = await _adapter()
    count = len(job_ids)
    entries = await adapter.queries(adapter.JsonbDriver(await session.connection())).enqueue(
        [adapter.ENTRYPOINT] * count, [job_id.bytes for job_id in job_ids], [0] * count
    )
    return list(entries)


async def notify_cancellation(session: Session, queue_id: int) -> None:
    """Notify the worker that runs an entry to stop, when the transaction commits."""
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
