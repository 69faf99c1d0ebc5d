"""A worker process that is killed or stopped, or that lost its database, loses no job and ends none twice."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from time import monotonic

import httpx
import psutil
import pytest

from service.auth.store import create_key
from service.database.database import Database
from service.settings import Settings
from tests.cli.test_cli import assert_one_clear_line, depot
from tests.support.app_helpers import eventually, running
from tests.support.depot_process import DepotProcess, depot_worker
from tests.support.embedded_server import Server
from tests.support.job_helpers import SLEEP, done, process, read, until

pytestmark = pytest.mark.settings(job_test_kinds=True)
ENTRIES = "select count(*) from queue.pgqueuer"
ENDS = "select count(*) from events where type = 'job.finished'"
BURNING_SECONDS = 60.0
"""Of a process that gives way to all others."""
SHORT = {"DEPOT_JOB_HEARTBEAT_SECONDS": "1"}
STRAY = {
    "CHANNEL": "elsewhere",
    "TRIGGER": "another",
    "QUEUE_TABLE": "nowhere",
    "SCHEDULES_TABLE": "nowhere",
    "PGQUEUER_PREFIX": "other_",
    "PGQUEUER_SCHEMA": "public",
    "DURABILITY": "volatile",
}

Begin = Callable[..., AbstractContextManager[DepotProcess]]


@pytest.fixture
async def client(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Call an application of this process."""
    async with running(settings, key) as client:
        yield client


@pytest.fixture
def begin(database_url: str, tmp_path: Path) -> Begin:
    """Run a worker in a process of its own."""

    def run(*arguments: str, **environment: str) -> AbstractContextManager[DepotProcess]:
        return depot_worker(database_url, tmp_path / "home", *arguments, **environment)

    return run


async def begun(worker: DepotProcess, count: int = 1) -> None:
    await asyncio.to_thread(worker.wait_for, "job_started", count)


def busy(worker: DepotProcess) -> list[psutil.Process]:
    """The processes of its pool."""
    children = psutil.Process(worker.process.pid).children(recursive=True)
    return [child for child in children if "to_process" in " ".join(child.cmdline())]


def test_a_worker_without_a_database_url_does_not_start() -> None:
    assert_one_clear_line(depot("worker"), "DATABASE_URL")


async def test_a_job_of_a_killed_worker_is_taken_over_and_ends_once(
    client: httpx.AsyncClient, database: Database, begin: Begin
) -> None:
    with begin(**SHORT) as one, begin(**SHORT) as another:
        job_id = await process(client, seconds=3, steps=100)
        await until(client, job_id, "running")
        victim, other = (one, another) if one.events("job_started") else (another, one)
        victim.kill()
        job = await until(client, job_id, "succeeded")
        assert job["attempts"] == 2
        assert len(other.events("job_started")) == 1
    assert await database.fetchval(ENDS) == 1
    assert await database.fetchval(ENTRIES) == 0


async def test_pool_processes_end_with_their_killed_worker(client: httpx.AsyncClient, begin: Begin) -> None:
    with begin() as worker:
        job_id = await process(client, seconds=60, burn=True, steps=1)
        await eventually(lambda: burning(worker), BURNING_SECONDS)
        burners = busy(worker)
        worker.kill()
    _, alive = psutil.wait_procs(burners, timeout=10)
    assert (len(burners), alive) == (1, [])
    assert (await read(client, job_id))["status"] == "running"


async def burning(worker: DepotProcess) -> bool:
    return any(process.cpu_times().user > 0.5 for process in busy(worker))


async def test_a_cancelled_burn_is_killed(
    client: httpx.AsyncClient, database: Database, begin: Begin
) -> None:
    with begin() as worker:
        job_id = await process(client, seconds=60, burn=True, steps=1)
        await eventually(lambda: burning(worker), BURNING_SECONDS)
        (burner,) = busy(worker)
        assert burner.nice() >= 10
        assert (await client.delete(f"/jobs/{job_id}")).json()["status"] == "cancelled"
        burner.wait(timeout=5)
        assert (await done(client, seconds=0))["attempts"] == 1  # and the worker goes on
    assert (await read(client, job_id))["status"] == "cancelled"


async def test_at_sigterm_running_jobs_finish_and_no_job_starts(
    client: httpx.AsyncClient, begin: Begin
) -> None:
    with begin() as worker:
        job_id = await process(client, seconds=1)
        await begun(worker)
        worker.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(worker.wait_for, "worker_stopping", 1)
        late = await process(client, seconds=0)
        assert await asyncio.to_thread(worker.process.wait, 10) == 0
    assert (await read(client, job_id))["status"] == "succeeded"
    assert (await read(client, late))["attempts"] == 0


async def test_a_job_that_outlasts_the_shutdown_is_requeued_immediately(
    client: httpx.AsyncClient, database: Database, begin: Begin
) -> None:
    with begin(DEPOT_SHUTDOWN_TIMEOUT_SECONDS="0.2") as worker:
        ids = [await process(client, seconds=2, steps=1, burn=burn) for burn in (True, False)]
        await begun(worker, 2)
        worker.process.send_signal(signal.SIGTERM)
        stopped_at = monotonic()
        assert await asyncio.to_thread(worker.process.wait, 10) == 0
        assert monotonic() - stopped_at < 3
    for job_id in ids:
        job = await read(client, job_id)
        assert (job["status"], job["attempts"], job["error"]) == ("queued", 0, None)
    with begin():  # does not wait for the heart of the other, which beats every 30 seconds
        for job_id in ids:
            assert (await until(client, job_id, "succeeded"))["attempts"] == 1


async def test_a_second_signal_requeues_running_jobs_immediately(
    client: httpx.AsyncClient, begin: Begin
) -> None:
    with begin() as worker:
        job_id = await process(client, seconds=60)
        await begun(worker)
        for _ in range(2):
            worker.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.1)
        assert await asyncio.to_thread(worker.process.wait, 5) == 0
    assert (await read(client, job_id))["status"] == "queued"


async def test_a_worker_can_run_one_job_at_a_time(client: httpx.AsyncClient, begin: Begin) -> None:
    ids = [await process(client, seconds=0.1, steps=1) for _ in range(4)]
    with begin("--concurrency", "1"):
        jobs = [await until(client, job_id, "succeeded") for job_id in ids]
    times = sorted((job["started_at"], job["finished_at"]) for job in jobs)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(times))


async def test_a_worker_can_run_many_jobs_at_a_time(client: httpx.AsyncClient, begin: Begin) -> None:
    ids = [await process(client, seconds=60) for _ in range(20)]
    with begin("--concurrency", "20"):
        for job_id in ids:
            await until(client, job_id, "running")


async def test_stray_environment_variables_do_not_change_the_names_of_tables(
    client: httpx.AsyncClient, begin: Begin
) -> None:
    with begin(**STRAY) as worker:
        assert (await done(client, seconds=0))["attempts"] == 1
        job_id = await process(client, seconds=60, steps=1)
        await begun(worker, 2)
        await client.delete(f"/jobs/{job_id}")
        await asyncio.to_thread(worker.wait_for, "job_cancelled", 1)


@pytest.mark.parametrize("trouble", [Server.suspended, Server.away])
async def test_a_database_outage_is_not_a_failure_of_the_job(
    own_server: Server, tmp_path: Path, trouble: Callable[[Server], AbstractContextManager[None]]
) -> None:
    settings = Settings(
        database_url=own_server.url,
        home=tmp_path,
        job_test_kinds=True,
        job_attempts_max=1,
        statement_timeout_seconds=1,
    )
    async with Database(settings).open() as database:
        async with database.orm_session() as session:
            key = await create_key(session, name="test", scopes=["admin"])
        limits = {"DEPOT_JOB_ATTEMPTS_MAX": "1", "DEPOT_STATEMENT_TIMEOUT_SECONDS": "1"}
        async with running(settings, key) as client:
            with depot_worker(own_server.url, tmp_path / "home", **limits) as worker:
                ids = [await process(client, seconds=seconds, steps=20) for seconds in (1, 4)]
                long = await process(client, seconds=60, steps=1)
                await begun(worker, 3)
                with trouble(own_server):
                    await asyncio.sleep(2)
                back_at = monotonic()
                late = await insist(client)
                for job_id in (late, *ids):
                    assert (await until(client, job_id, "succeeded"))["attempts"] == 1
                assert monotonic() - back_at < 10
                assert (await read(client, long))["status"] == "running"  # the others did not wait for it
                await client.delete(f"/jobs/{long}")
                assert len(worker.events("queue_disconnected")) <= 1  # a short silence may pass unnoticed
                assert worker.events("unhandled_error") == []
                assert worker.process.poll() is None
        assert await database.fetchval(ENDS) == 4
        assert await database.fetchval(ENTRIES) == 0


async def insist(client: httpx.AsyncClient) -> str:
    """A job, as soon as one can be queued."""
    async with asyncio.timeout(5):
        while True:
            reply = await client.post("/process", json={"kind": SLEEP, "payload": {"seconds": 0}})
            if reply.status_code == 202:
                return str(reply.json()["id"])
            assert reply.status_code == 503, reply.text
            await asyncio.sleep(0.05)
