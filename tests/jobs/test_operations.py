"""A job is canceled or queued again, each once for a repeated request."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from msgspec.structs import replace

from conftest import Client
from service.database.database import Database
from service.job_kinds import build_registry
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import running
from tests.support.job_helpers import done, journal, process, read, running_worker, until
from tests.support.reply_assertions import assert_refused

pytestmark = pytest.mark.settings(job_test_kinds=True)
NOBODY = "00000000-0000-7000-8000-000000000000"
ONCE = {"Idempotency-Key": "once"}
ENTRIES = "select count(*) from queue.pgqueuer"


@pytest.fixture
async def worker(settings: Settings, database: Database) -> AsyncIterator[Worker]:
    async with running_worker(settings, database) as worker:
        yield worker


async def test_a_queued_job_is_cancelled_and_never_starts(client: Client, database: Database) -> None:
    job_id = await process(client, seconds=0)
    reply = await client.delete(f"/jobs/{job_id}", headers={"X-Request-ID": "enough"})
    assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
    assert reply.json()["finished_at"]
    assert (await client.delete(f"/jobs/{job_id}")).json() == reply.json()
    assert await database.fetchval(ENTRIES) == 0
    *_, (type_, _, request_id, told) = await journal(database, job_id)
    assert (type_, request_id, told["status"]) == ("job.finished", "enough", "cancelled")
    assert len(await journal(database, job_id)) == 2


async def test_a_running_job_is_cancelled_immediately_and_stops(
    client: Client, database: Database, worker: Worker
) -> None:
    job_id = await process(client, seconds=60)
    await until(client, job_id, "running")
    cancelled = (await client.delete(f"/jobs/{job_id}")).json()
    assert cancelled["status"] == "cancelled"
    async with asyncio.timeout(5):
        while len(worker._runner):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await read(client, job_id) == cancelled
    assert await database.fetchval(ENTRIES) == 0


async def test_a_finished_job_cannot_be_cancelled(client: Client, worker: Worker) -> None:
    job = await done(client, seconds=0)
    assert (
        "succeeded"
        in assert_refused(await client.delete(f"/jobs/{job['id']}"), 409, "INVALID_STATE")["message"]
    )
    assert await read(client, job["id"]) == job


async def test_a_failed_job_is_retried_as_if_it_were_new(
    client: Client, database: Database, settings: Settings
) -> None:
    only_once = replace(settings, job_attempts_max=1)
    async with Worker(only_once, database, build_registry(settings)).open():
        job_id = await process(client, seconds=0, fail_times=1)
        failed = await until(client, job_id, "failed")
        assert (failed["attempts"], failed["error"]) == (1, "Unexpected RuntimeError")
    reply = await client.post(f"/jobs/{job_id}/retry", headers={"X-Request-ID": "again"})
    fresh = {"status": "queued", "attempts": 0, "error": None, "started_at": None, "finished_at": None}
    assert (reply.status_code, reply.json()) == (202, {**failed, **fresh})
    *_, (type_, _, request_id, told) = await journal(database, job_id)
    assert (type_, request_id) == ("job.retried", "again")
    assert told["changes"] == {"status": {"from": "failed", "to": "queued"}}
    async with Worker(settings, database, build_registry(settings)).open():
        assert (await until(client, job_id, "succeeded"))["attempts"] == 2


async def test_a_repeated_retry_under_one_key_queues_once(client: Client, database: Database) -> None:
    job_id = await process(client, seconds=0)
    fail = "update jobs set status = 'failed', finished_at = now() where id = $1"
    await database.fetch(fail, UUID(job_id))
    first = await client.post(f"/jobs/{job_id}/retry", headers=ONCE)
    assert first.status_code == 202
    again = await client.post(f"/jobs/{job_id}/retry", headers=ONCE)
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    await database.fetch(fail, UUID(job_id))
    assert (await client.post(f"/jobs/{job_id}/retry", headers=ONCE)).content == first.content
    assert (await read(client, job_id))["status"] == "failed"
    assert len([event for event in await journal(database, job_id) if event[0] == "job.retried"]) == 1


async def test_concurrent_retries_under_one_key_queue_once(
    settings: Settings, key: str, database: Database
) -> None:
    async with running(settings, key) as one, running(settings, key) as another:
        job_id = await process(one, seconds=0)
        await database.fetch(
            "update jobs set status = 'failed', finished_at = now() where id = $1", UUID(job_id)
        )
        retry = [client.post(f"/jobs/{job_id}/retry", headers=ONCE) for client in (one, another)]
        replies = await asyncio.gather(*retry)
    assert [reply.status_code for reply in replies] == [202, 202]
    assert replies[0].content == replies[1].content


async def test_a_job_is_cancelled_by_post_too(client: Client, database: Database) -> None:
    job_id = await process(client, seconds=0)
    first = await client.post(f"/jobs/{job_id}/cancel", headers=ONCE)
    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    again = await client.post(f"/jobs/{job_id}/cancel", headers=ONCE)
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    assert (await client.delete(f"/jobs/{job_id}")).json() == first.json()
    assert_refused(await client.post(f"/jobs/{NOBODY}/cancel"), 404, "NOT_FOUND")


async def test_a_job_that_has_not_failed_cannot_be_retried(
    client: Client, database: Database, settings: Settings
) -> None:
    job_id = await process(client, seconds=0)
    assert_refused(await client.post(f"/jobs/{job_id}/retry"), 409, "INVALID_STATE")
    assert await database.fetchval(ENTRIES) == 1
    async with Worker(settings, database, build_registry(settings)).open():
        await until(client, job_id, "succeeded")
    assert_refused(await client.post(f"/jobs/{job_id}/retry"), 409, "INVALID_STATE")
    called_off = await process(client, seconds=0)
    await client.delete(f"/jobs/{called_off}")
    assert_refused(await client.post(f"/jobs/{called_off}/retry"), 409, "INVALID_STATE")
    assert await database.fetchval(ENTRIES) == 0
