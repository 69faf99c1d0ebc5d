"""What keeps the queue true and the tables small. Each returns how many rows it concerned."""

from service.blobs import open_blob_store
from service.database.database import Database
from service.idempotency.replies import RETENTION
from service.jobs import statements
from service.jobs.queue import enqueue
from service.settings import Settings

RECOVER_MAX = 1000
SWEEP_MAX = 10_000
JOBS_MAX = 1000
BATCHES_MAX = 100
"""What is left after so many is done next time."""
QUEUE_LOG_KEPT_DAYS = 7

OLDER_THAN = "make_interval(days => $2)"


async def requeue_orphans(database: Database, _: Settings) -> int:
    """Queue the jobs again whose entry got lost, and which nobody would ever begin."""
    async with database.session() as session, session.transaction():
        await session.execute(statements.LOCK_RECOVERY)
        orphans = [row["id"] for row in await session.fetch(statements.ORPHANS, RECOVER_MAX)]
        if orphans:
            await session.execute(statements.REQUEUE, orphans, await enqueue(session, orphans))
    return len(orphans)


async def sweep_idempotency_keys(database: Database, _: Settings) -> int:
    return await sweep(database, "idempotency_keys", f"created_at <= now() - {RETENTION}")


async def sweep_deliveries(database: Database, settings: Settings) -> int:
    """Those that ended long ago, and those of webhooks that are gone."""
    old = f"""finished_at < now() - {OLDER_THAN}
      or not exists (select from webhooks where webhooks.id = deliveries.webhook_id)"""
    return await sweep(database, "deliveries", old, settings.delivery_kept_days)


async def sweep_queue(database: Database, _: Settings) -> int:
    """PgQueuer's own log."""
    old = f"created < now() - {OLDER_THAN}"
    return sum(
        [
            await sweep(database, table, old, QUEUE_LOG_KEPT_DAYS)
            for table in ("queue.pgqueuer_log", "queue.pgqueuer_statistics")
        ]
    )


async def sweep_jobs(database: Database, settings: Settings) -> int:
    """Jobs that ended long ago, and before them the blobs they made."""
    store, removed = open_blob_store(settings), 0
    for _ in range(BATCHES_MAX):
        rows = await database.fetch(statements.SELECT_EXPIRED, settings.job_kept_days, JOBS_MAX)
        if not rows:
            break
        for row in rows:
            if row["key"] is not None:
                await store.delete(row["key"])
        ids = [row["id"] for row in rows]
        removed += await database.fetchval(statements.DELETE, ids, settings.job_kept_days)
    return removed


async def sweep(database: Database, table: str, old: str, *arguments: object) -> int:
    """Delete the rows that are `old`, a condition with arguments from $2 on.

    In batches, on a connection that has more time than a request has.
    """
    removed = 0
    async with database.dedicated_connection() as connection:
        await connection.execute("set statement_timeout = '5min'")
        for _ in range(BATCHES_MAX):
            count = await connection.fetchval(statements.sweep(table, old), SWEEP_MAX, *arguments)
            removed += count
            if count < SWEEP_MAX:
                break
    return removed
