"""Scheduled maintenance of queue and tables. Each function returns the number of affected rows."""

from service.blobs import open_blob_store
from service.database.bulk import BATCHES_MAX, run_in_batches
from service.database.database import Database
from service.events.pruned import READ_PRUNED_ID
from service.idempotency.replies import RETENTION
from service.jobs import statements
from service.jobs.queue import enqueue
from service.settings import Settings

REQUEUE_BATCH_SIZE = 1000
SWEEP_BATCH_SIZE = 10_000
JOBS_BATCH_SIZE = 1000
QUEUE_LOG_RETENTION_DAYS = 7

MAX_AGE = "make_interval(days => $2)"


async def requeue_lost_jobs(database: Database, _: Settings) -> int:
    """Requeue jobs whose queue entry is lost."""
    async with database.session() as session, session.transaction():
        await session.execute(statements.LOCK_RECOVERY)
        lost = [row["id"] for row in await session.fetch(statements.SELECT_LOST, REQUEUE_BATCH_SIZE)]
        if lost:
            await session.execute(statements.REQUEUE, lost, await enqueue(session, lost))
    return len(lost)


async def sweep_idempotency_keys(database: Database, _: Settings) -> int:
    return await sweep(database, "idempotency_keys", f"created_at <= now() - {RETENTION}")


async def sweep_deliveries(database: Database, settings: Settings) -> int:
    """Delete expired deliveries, and those of deleted webhooks and pruned events."""
    expired = f"""finished_at < now() - {MAX_AGE} or event_id <= ({READ_PRUNED_ID})
      or not exists (select from webhooks where webhooks.id = deliveries.webhook_id)"""
    return await sweep(database, "deliveries", expired, settings.delivery_kept_days)


async def sweep_queue(database: Database, _: Settings) -> int:
    """Delete old rows of PgQueuer's log."""
    expired = f"created < now() - {MAX_AGE}"
    return sum(
        [
            await sweep(database, table, expired, QUEUE_LOG_RETENTION_DAYS)
            for table in ("queue.pgqueuer_log", "queue.pgqueuer_statistics")
        ]
    )


async def sweep_jobs(database: Database, settings: Settings) -> int:
    """Delete expired jobs, and their output blobs first."""
    store, deleted, days = open_blob_store(settings), 0, settings.job_kept_days
    async with database.dedicated_connection() as connection:
        await connection.execute("set statement_timeout = '5min'")
        for _ in range(BATCHES_MAX):
            rows = await connection.fetch(statements.SELECT_EXPIRED, days, JOBS_BATCH_SIZE)
            for row in rows:
                if row["key"] is not None:
                    await store.delete(row["key"])
            if not rows:
                break
            deleted += await connection.fetchval(statements.DELETE, [row["id"] for row in rows], days)
    return deleted


async def sweep(database: Database, table: str, condition: str, *arguments: object) -> int:
    """Delete the rows that match `condition`, whose arguments are numbered from $2 on.

    The deletion is done in batches, on a connection with a longer timeout than a request has.
    """
    return await run_in_batches(database, statements.sweep(table, condition), SWEEP_BATCH_SIZE, *arguments)
