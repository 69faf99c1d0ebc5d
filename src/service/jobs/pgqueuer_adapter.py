"""The setup of PgQueuer, which decides when a worker starts an entry. The jobs are in Depot's table."""

from asyncio import Event
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any

from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import (
    QueryBuilderEnvironment,
    QueryQueueBuilder,
    QuerySchedulerBuilder,
)
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.models import Context, Job, TracebackRecord
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import JOB_STATUS, Channel, JobId
from pgqueuer.ports.driver import Driver

from service.values import decode_json

SETTINGS = DBSettings(
    prefix="",
    db_schema="queue",
    channel=Channel("ch_pgqueuer"),
    function="fn_pgqueuer_changed",
    statistics_table="pgqueuer_statistics",
    queue_status_type="pgqueuer_status",
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    trigger="tg_pgqueuer_changed",
    schedules_table="pgqueuer_schedules",
    durability=Durability.durable,
    widen_id=False,
)
"""All names are explicit; otherwise stray environment variables (`CHANNEL`, `TRIGGER`, …) would set them."""

__all__ = ["ENTRYPOINT", "JobId", "JsonbDriver", "consume", "queries"]

ENTRYPOINT = "job"
POLL_SECONDS = 1.0
"""The poll interval for work without a notification: due retries, and jobs of dead workers."""
BATCH_MAX = 10


SELECT_OWNED_ENTRIES = f"""
select q.id from {SETTINGS.db_schema}.{SETTINGS.queue_table} q
join unnest($1::bigint[], $2::uuid[]) as mine (id, owner)
  on q.id = mine.id and q.queue_manager_id = mine.owner"""


def queries(driver: Driver) -> Queries:
    return OwnedEntryQueries(
        driver,
        qbe=QueryBuilderEnvironment(SETTINGS),
        qbq=QueryQueueBuilder(SETTINGS),
        qbs=QuerySchedulerBuilder(SETTINGS),
    )


async def consume(
    driver: Driver,
    execute: Callable[[Job, Context], Awaitable[None]],
    *,
    concurrency: int,
    heartbeat_seconds: float,
    stopping: Event,
) -> None:
    """Run queued jobs, `concurrency` at a time, until `stopping`; then wait for the running ones."""
    manager = LimitedQueueManager(queries(driver), channel=Channel(SETTINGS.channel))
    manager.shutdown = stopping
    manager.concurrency = concurrency
    manager.entrypoint(ENTRYPOINT, accepts_context=True)(execute)
    await manager.run(
        dequeue_timeout=timedelta(seconds=POLL_SECONDS),
        batch_size=max(1, min(BATCH_MAX, concurrency // 2)),
        max_concurrent_tasks=max(2, concurrency),
        heartbeat_timeout=timedelta(seconds=heartbeat_seconds),
        log_aggregation_interval=timedelta(0),  # its statistics are not used
    )


class OwnedEntryQueries(Queries):
    """PgQueuer's queries, except that a worker deletes only entries that it still owns."""

    async def log_jobs(self, job_status: list[tuple[Job, JOB_STATUS, TracebackRecord | None]]) -> None:
        jobs = [job for job, *_ in job_status]
        rows = await self.driver.fetch(
            SELECT_OWNED_ENTRIES, [job.id for job in jobs], [job.queue_manager_id for job in jobs]
        )
        owned_ids = {row["id"] for row in rows}
        if ended := [entry for entry in job_status if entry[0].id in owned_ids]:
            await super().log_jobs(ended)


class LimitedQueueManager(QueueManager):
    """PgQueuer's manager, with support for one job at a time."""

    concurrency: int

    async def verify_structure(self) -> None:
        """Omit 15 queries: a worker starts only if the database has the version of Depot's schema."""

    def fetch_jobs(
        self, batch_size: int, global_concurrency_limit: int | None, heartbeat_timeout: timedelta
    ) -> AsyncGenerator[Job, None]:
        return super().fetch_jobs(batch_size, self.concurrency, heartbeat_timeout)


class JsonbDriver(AsyncpgDriver):
    """A driver for `Database` connections, where jsonb takes values; PgQueuer passes headers as text."""

    async def fetch(self, query: str, *args: Any) -> list[dict[str, object]]:
        *rest, headers = args
        return await super().fetch(query, *rest, [decode_json(text) for text in headers])
