"""What is old goes, what is lost comes back, and nothing else is touched."""

from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from service.blobs import open_blob_store
from service.database import bulk
from service.database.database import Database
from service.errors import NotFound
from service.events.journal import CLI
from service.jobs import maintenance
from service.jobs.operations import cancel, read_job, submit
from service.jobs.schemas import JobCreate
from service.settings import Settings
from tests.support.app_helpers import in_session
from tests.support.job_helpers import SLEEP

KEYS = """
insert into idempotency_keys (caller, path, key, fingerprint, status, headers, body, created_at)
select 'c', '/p', 'k' || age, 'f', 201, '{}', '', now() - make_interval(hours => age)
from unnest($1::int[]) age"""
DELIVERIES = """
insert into deliveries (webhook_id, event_id, status, due_at, finished_at)
select $1, gen_random_uuid(), case when age is null then 'pending' else 'delivered' end,
  case when age is null then now() end, now() - make_interval(days => age) from unnest($2::int[]) age"""
WEBHOOK = """
insert into webhooks (id, url, events, enabled, secret, version)
values ($1, 'https://example.com/', '{user.action}', true, 's', 1)"""


async def random_job(database: Database) -> UUID:
    return (await in_session(database, submit, JobCreate(SLEEP, {"seconds": 0}), CLI, None)).id


async def test_a_job_without_a_queue_entry_is_queued_again(database: Database, settings: Settings) -> None:
    lost, held, kept, ended = [await random_job(database) for _ in range(4)]
    await in_session(database, cancel, ended, CLI, None)
    await database.fetch(
        "update jobs set status = 'running', attempts = 1, progress = 50 where id = $1", lost
    )
    await database.fetch("delete from queue.pgqueuer where payload = $1", lost.bytes)
    await database.fetch("update queue.pgqueuer set status = 'failed' where payload = $1", held.bytes)
    before = await in_session(database, read_job, kept)
    assert await maintenance.requeue_lost_jobs(database, settings) == 2
    assert await maintenance.requeue_lost_jobs(database, settings) == 0
    found = await in_session(database, read_job, lost)
    assert (found.status, found.progress, found.attempts) == ("queued", 0, 1)
    assert await in_session(database, read_job, kept) == before
    assert (await in_session(database, read_job, ended)).status == "cancelled"
    entries = await database.fetch(
        "select q.payload from queue.pgqueuer q join jobs on queue_id = q.id where q.status = 'queued'"
    )
    assert {row["payload"] for row in entries} == {lost.bytes, held.bytes, kept.bytes}


async def test_many_lost_jobs_are_queued_again_in_batches(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "REQUEUE_BATCH_SIZE", 2)
    for _ in range(3):
        await random_job(database)
    await database.fetch("delete from queue.pgqueuer")
    assert [await maintenance.requeue_lost_jobs(database, settings) for _ in range(3)] == [2, 1, 0]


async def test_idempotency_keys_are_deleted_after_a_day(database: Database, settings: Settings) -> None:
    await database.fetch(KEYS, [23, 24, 25, 1000])
    assert await maintenance.sweep_idempotency_keys(database, settings) == 3
    assert [row["key"] for row in await database.fetch("select key from idempotency_keys")] == ["k23"]


async def test_a_table_is_swept_in_batches(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "SWEEP_BATCH_SIZE", 2)
    await database.fetch(KEYS, [1, 25, 26, 27, 28, 29])
    assert await maintenance.sweep_idempotency_keys(database, settings) == 5
    monkeypatch.setattr(bulk, "BATCHES_MAX", 1)
    await database.fetch(KEYS, [25, 26, 27])
    assert await maintenance.sweep_idempotency_keys(database, settings) == 2  # the rest is for the next time


async def test_deliveries_are_deleted_when_they_expire_or_their_webhook_is_deleted(
    database: Database, settings: Settings
) -> None:
    there, gone = uuid7(), uuid7()
    await database.fetch(WEBHOOK, there)
    days = settings.delivery_kept_days
    await database.fetch(DELIVERIES, there, [None, 0, days - 1, days + 1])
    await database.fetch(DELIVERIES, gone, [None, 0])
    assert await maintenance.sweep_deliveries(database, settings) == 3
    left = await database.fetch("select webhook_id, finished_at > now() - interval '30 days' from deliveries")
    assert [tuple(row) for row in left] == [(there, None), (there, True), (there, True)]


async def test_expired_jobs_are_deleted_with_their_files(database: Database, settings: Settings) -> None:
    store = open_blob_store(settings)
    ids = [await random_job(database) for _ in range(4)]
    for job_id in ids:
        await store.put(f"exports/{job_id}", b"rows")
        output = {"output": {"key": f"exports/{job_id}"}}
        await database.fetch("update jobs set result = $2::jsonb where id = $1", job_id, output)
    queued, recent, old, bare = ids
    await database.fetch("update jobs set result = null where id = $1", bare)
    ended = (
        "update jobs set status = 'succeeded', finished_at = now() - make_interval(days => $2) where id = $1"
    )
    for job_id, age in ((recent, 29), (old, 31), (bare, 31)):
        await database.fetch(ended, job_id, age)
    assert await maintenance.sweep_jobs(database, settings) == 2
    for job_id in (queued, recent):
        await in_session(database, read_job, job_id)
        await store.get(f"exports/{job_id}")
    for job_id in (old, bare):
        with pytest.raises(NotFound):
            await in_session(database, read_job, job_id)
    with pytest.raises(NotFound):
        await store.get(f"exports/{old}")


async def test_the_log_of_the_queue_is_deleted_after_a_week(database: Database, settings: Settings) -> None:
    await random_job(database)
    await database.fetch(
        "insert into queue.pgqueuer_log (job_id, status, priority, entrypoint, created) "
        "select 1, 'successful', 0, 'job', now() - make_interval(days => age) from unnest(array[6, 8, 9]) age"
    )
    await database.fetch(
        "insert into queue.pgqueuer_statistics (count, priority, status, entrypoint, created) "
        "values (1, 0, 'successful', 'job', now() - interval '8 days')"
    )
    assert await maintenance.sweep_queue(database, settings) == 3
    assert await database.fetchval("select count(*) from queue.pgqueuer_log") == 2
