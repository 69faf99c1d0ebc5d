"""What a process that only serves does with the queue.

PgQueuer is imported when there is something to queue: it costs 130 ms and 6 MiB.
"""

from collections.abc import Sequence
from uuid import UUID

from service.db import Connection


async def enqueue(connection: Connection, job_ids: Sequence[UUID]) -> list[int]:
    """In the transaction of `connection`: workers are told when it commits. Returns the entries' ids."""
    from service.jobs.puller import ENTRYPOINT, OwnConnection, queries  # noqa: PLC0415  # see above

    count = len(job_ids)
    entries = await queries(OwnConnection(connection)).enqueue(
        [ENTRYPOINT] * count, [job_id.bytes for job_id in job_ids], [0] * count
    )
    return list(entries)


async def call_off(connection: Connection, queue_id: int) -> None:
    """Tell the worker that may have begun an entry to stop, when the transaction commits."""
    from pgqueuer.domain.types import JobId  # noqa: PLC0415  # see above

    from service.jobs.puller import OwnConnection, queries  # noqa: PLC0415  # see above

    await queries(OwnConnection(connection)).notify_job_cancellation([JobId(queue_id)])
