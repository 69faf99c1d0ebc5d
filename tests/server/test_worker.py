"""A worker waits for its schema, recovers jobs, leaves the event loop free and runs its schedules."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import httpx
import pytest

from service.app import create_app
from service.database.database import SCHEMA, Database
from service.job_kinds import build_registry
from service.settings import Settings
from service.worker import Schedule, Worker
from tests.support.app_helpers import Json, eventually, running
from tests.support.job_helpers import done, process, read, until

pytestmark = pytest.mark.settings(job_test_kinds=True)
ENDS = "select count(*) from events where type = 'job.finished'"
CUT = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and query ilike '%from queue.pgqueuer%' and pid <> pg_backend_pid()"""
LAG_SECONDS = 0.05


@pytest.fixture
async def client(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Call an application of this process."""
    async with running(settings, key) as client:
        yield client


async def test_a_worker_with_an_outdated_schema_waits_and_logs_it(
    client: httpx.AsyncClient, database: Database, database_url: str, tmp_path: Path, settings: Settings
) -> None:
    job_id = await process(client, seconds=0)
    await database.fetch("update schema_version set version_num = '0002'")
    worker = Worker(settings, database, build_registry(settings))
    async with worker.open():
        await asyncio.sleep(0.5)
        assert (await read(client, job_id))["status"] == "queued"
        await database.fetch("update schema_version set version_num = $1", SCHEMA)
        await until(client, job_id, "succeeded")


async def test_a_worker_that_lost_its_connections_still_receives_cancellations(
    client: httpx.AsyncClient, database: Database, settings: Settings
) -> None:
    worker = Worker(settings, database, build_registry(settings), grace_seconds=0)

    async def idle() -> bool:
        return len(worker._runner) == 0

    async with worker.open():
        job_id = await process(client, seconds=60, steps=1)
        await until(client, job_id, "running")
        assert await database.fetch(CUT)
        await done(client, seconds=0)  # so it is there again
        await client.delete(f"/jobs/{job_id}")
        await eventually(idle)


async def test_jobs_whose_entry_got_lost_are_recovered_when_a_worker_starts(
    client: httpx.AsyncClient, database: Database, settings: Settings
) -> None:
    ids = [await process(client, seconds=0) for _ in range(3)]
    await database.fetch("update jobs set status = 'running', attempts = 1 where id = $1", ids[0])
    await database.fetch("delete from queue.pgqueuer")
    async with Worker(settings, database, build_registry(settings)).open():
        for job_id in ids:
            await until(client, job_id, "succeeded")
    assert await database.fetchval(ENDS) == 3


async def test_cpu_bound_jobs_do_not_block_the_event_loop(
    client: httpx.AsyncClient, database: Database, settings: Settings
) -> None:
    lags = []
    async with Worker(settings, database, build_registry(settings)).open():
        await done(client, seconds=0.1, burn=True, steps=1)  # the process of the pool is there
        for _ in range(3):  # this machine may have other things to do
            burn = asyncio.create_task(done(client, seconds=1, burn=True, steps=1))
            lags.append(await lag_seconds(burn))
            await burn
    assert min(lags) < LAG_SECONDS, lags


async def lag_seconds(meanwhile: "asyncio.Task[Json]") -> float:
    """Measure how late the event loop was at most."""
    worst = 0.0
    while not meanwhile.done():
        due = monotonic() + 0.005
        await asyncio.sleep(0.005)
        worst = max(worst, monotonic() - due)
    return worst


async def test_schedules_run_once_across_all_workers(database: Database, settings: Settings) -> None:
    ran: list[int] = []  # the time of the run after each one

    async def tick(_: Database, __: Settings) -> int:
        ran.append(
            await database.fetchval("select extract(epoch from next_run)::int from queue.pgqueuer_schedules")
        )
        return 1

    every_second = (Schedule("* * * * * */1", "test.tick", tick),)
    workers = [Worker(settings, database, build_registry(settings), schedules=every_second) for _ in range(3)]
    async with workers[0].open(), workers[1].open(), workers[2].open():
        await eventually(lambda: enough(ran, 4))
    assert len(ran) == len(set(ran)), ran


async def enough(ran: list[int], count: int) -> bool:
    return len(ran) >= count


async def test_a_schedule_that_fails_runs_again(database: Database, settings: Settings) -> None:
    ran: list[int] = []

    async def fail(_: Database, __: Settings) -> int:
        ran.append(1)
        raise RuntimeError("not today")

    schedules = (Schedule("* * * * * */1", "test.fail", fail),)
    async with Worker(settings, database, build_registry(settings), schedules=schedules).open():
        await eventually(lambda: enough(ran, 2))


async def test_an_application_can_run_a_worker_in_its_process(settings: Settings, key: str) -> None:
    app = create_app(settings, worker=True)
    headers = {"Authorization": f"Bearer {key}"}
    async with app.lifespan():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://depot", headers=headers) as client:
            await done(client, seconds=0)
            await process(client, seconds=60)
            await until(client, await process(client, seconds=60), "running")
        stopped_at = monotonic()
    assert monotonic() - stopped_at < 1.5
