"""Whatever happens while a job runs, it ends exactly once, and its error is visible."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from anyio import CancelScope
from structlog.testing import capture_logs

from service.database.database import Database
from service.errors import NotFound
from service.events.journal import CLI
from service.jobs.context import PROGRESS_SECONDS, JobContext, JobFailed, JobSuperseded
from service.jobs.operations import cancel, read_job
from service.jobs.queue import enqueue
from service.jobs.runner import _backoff_seconds
from service.settings import Settings
from tests.support.app_helpers import MAX_WAIT_SECONDS, eventually, in_session
from tests.support.job_harness import JobHarness, Payload
from tests.support.reply_assertions import LEAK


@pytest.fixture
def harness(settings: Settings, database: Database) -> JobHarness:
    return JobHarness(settings, database)


async def fail(context: JobContext, _: Payload) -> None:
    raise RuntimeError("select * from secrets at /tmp/secret.py said asyncpg")


async def test_the_return_value_is_the_result(harness: JobHarness) -> None:
    async def make(context: JobContext, payload: Payload) -> Payload:
        return payload

    job = await harness.outcome(make)
    assert (job.status, job.result, job.progress) == ("succeeded", {"units": 1}, 100)
    assert await harness.final_statuses() == ["succeeded"]
    assert await harness.entry_count() == 0


async def test_an_error_is_retried_until_the_job_has_failed(harness: JobHarness) -> None:
    with capture_logs() as logs:
        job = await harness.outcome(fail, job_attempts_max=2)
    assert (job.status, job.attempts) == ("failed", 2)
    assert await harness.final_statuses() == ["failed"]
    assert await harness.entry_count() == 0
    later, failed = [log for log in logs if "job" in log and log["log_level"] in {"warning", "error"}]
    assert (later["event"], later["log_level"]) == ("job_retry_scheduled", "warning")
    assert (failed["event"], failed["log_level"], failed["attempt"]) == ("job_failed", "error", 2)
    assert isinstance(failed["exc_info"], RuntimeError)  # with its traceback


async def test_the_error_text_for_clients_reveals_nothing_internal(harness: JobHarness) -> None:
    job = await harness.outcome(fail, job_attempts_max=1)
    assert job.error == "Unexpected RuntimeError"
    assert not LEAK.search(job.error)


async def test_a_job_that_waits_for_a_retry_shows_its_last_error(harness: JobHarness) -> None:
    async with harness.running(fail):
        job_id = await harness.submit()

        async def failed_once() -> bool:
            return (await in_session(harness.database, read_job, job_id)).error is not None

        await eventually(failed_once)
        job = await in_session(harness.database, read_job, job_id)
    assert (job.status, job.attempts, job.finished_at) == ("queued", 1, None)
    assert await harness.final_statuses() == []


def test_delays_between_attempts_double_up_to_five_minutes_with_jitter() -> None:
    for attempt, most in ((1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (100, 300)):
        pauses = {_backoff_seconds(attempt) for _ in range(100)}
        assert len(pauses) > 50
        assert most / 2 <= min(pauses) <= max(pauses) <= most


async def test_a_job_can_fail_permanently(harness: JobHarness) -> None:
    async def refuse(context: JobContext, _: Payload) -> None:
        raise JobFailed("Row 3 is bad", {"row": 3})

    job = await harness.outcome(refuse)
    assert (job.status, job.attempts, job.error, job.result) == ("failed", 1, "Row 3 is bad", {"row": 3})


async def test_the_text_of_a_fault_is_shown_to_clients(harness: JobHarness) -> None:
    async def miss(context: JobContext, _: Payload) -> None:
        raise NotFound("There is no such report")

    assert (await harness.outcome(miss, job_attempts_max=1)).error == "There is no such report"


async def test_a_result_that_cannot_be_stored_is_an_error_too(harness: JobHarness) -> None:
    async def make(context: JobContext, _: Payload) -> object:
        return object()

    job = await harness.outcome(make, job_attempts_max=1)
    assert (job.status, job.error) == ("failed", "Unexpected DataError")


async def test_a_payload_that_is_no_longer_valid_fails_with_every_error(harness: JobHarness) -> None:
    async with harness.running(fail):
        job = await harness.until(await harness.submit({"units": "many", "colour": "red"}), "failed")
    assert job.attempts == 1
    assert job.error is not None
    for words in ("no longer valid", "/units: must be a whole number", "/colour"):
        assert words in job.error


async def test_a_job_of_an_unknown_kind_fails_visibly(harness: JobHarness) -> None:
    async with harness.running(fail, job_attempts_max=1):
        job = await harness.until(await harness.submit(kind="test.gone"), "failed")
    assert job.error == "Unknown job kind"


async def test_progress_is_written_at_intervals_and_never_decreases(harness: JobHarness) -> None:
    seen: list[int] = []

    async def go(context: JobContext, _: Payload) -> None:
        for percent in (10, 20, 90, 50):
            await context.report_progress(percent)
            seen.append((await in_session(context.database, read_job, context.id)).progress)
            if percent != 10:
                await asyncio.sleep(PROGRESS_SECONDS)

    await harness.outcome(go)
    assert seen == [0, 0, 90, 90]  # the first two came too soon


async def test_effect_and_end_commit_together(harness: JobHarness) -> None:
    async def work(context: JobContext, _: Payload) -> None:
        async with context.database.session() as session, session.transaction():
            await session.execute("insert into secrets (name, value) values ('made', $1)", b"x" * 32)
            await context.succeed(session, {"made": 1})
            assert (
                await in_session(context.database, read_job, context.id)
            ).status == "running"  # to other connections
            if context.attempt == 1:
                raise RuntimeError("not yet")

    job = await harness.outcome(work)
    assert (job.status, job.attempts, job.result) == ("succeeded", 2, {"made": 1})
    assert await harness.final_statuses() == ["succeeded"]


async def test_a_superseded_run_changes_nothing(harness: JobHarness) -> None:
    taken_over, first_is_done, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(context: JobContext, _: Payload) -> str:
        if context.attempt == 2:
            taken_over.set()
            await may_end.wait()
            return "second"
        await taken_over.wait()
        await asyncio.sleep(PROGRESS_SECONDS)
        await assert_superseded(context)
        first_is_done.set()
        return "first"

    async with AsyncExitStack() as first, asyncio.timeout(MAX_WAIT_SECONDS):
        # It runs one job at a time, so it cannot take over the expired job itself.
        await first.enter_async_context(harness.running(work, worker_concurrency=1))
        job_id = await harness.submit()
        await harness.until(job_id, "running")
        await harness.database.fetch("update queue.pgqueuer set heartbeat = now() - interval '1 hour'")
        async with harness.running(work):  # another worker, for which the first one is dead
            await first_is_done.wait()
            await first.aclose()
            assert await harness.entry_count() == 1  # the second run's
            may_end.set()
            job = await harness.until(job_id, "succeeded")
    assert (job.attempts, job.result) == (2, "second")
    assert await harness.final_statuses() == ["succeeded"]


async def assert_superseded(context: JobContext) -> None:
    """Assert that a run that has lost its job cannot write anything."""
    with pytest.raises(JobSuperseded):
        await context.report_progress(50)
    with pytest.raises(JobSuperseded):
        async with context.database.session() as session, session.transaction():
            await session.execute("insert into secrets (name, value) values ('made', $1)", b"x" * 32)
            await context.succeed(session, "first")
    assert await context.database.fetchval("select count(*) from secrets where name = 'made'") == 0
    for status in ("succeeded", "failed"):
        assert not await in_session(context.database, context.end, status, None, None)


async def have(found: list[Any], count: int) -> bool:
    return len(found) >= count


async def test_a_cancelled_run_changes_nothing(harness: JobHarness) -> None:
    superseded = asyncio.Event()

    async def work(context: JobContext, _: Payload) -> None:
        await asyncio.sleep(PROGRESS_SECONDS)
        with CancelScope(shield=True):  # the worker may be notified before `cancel` returns
            await in_session(context.database, cancel, context.id, CLI, None)
            await assert_superseded(context)
            superseded.set()

    async with harness.running(work):
        job_id = await harness.submit()
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            await superseded.wait()
        assert (await in_session(harness.database, read_job, job_id)).status == "cancelled"
    assert await harness.final_statuses() == ["cancelled"]


async def test_a_job_whose_workers_die_is_not_restarted_forever(harness: JobHarness) -> None:
    job_id = await harness.submit()
    await harness.database.fetch("update jobs set status = 'running', attempts = 2")
    async with harness.running(fail, job_attempts_max=2):
        job = await harness.until(job_id, "failed")
    assert job.error == "The job was started 2 times, and its worker died each time"


async def test_an_entry_without_a_job_does_no_harm(harness: JobHarness) -> None:
    job_id = await harness.submit()
    await harness.database.fetch("delete from jobs")
    async with harness.running(fail):
        await eventually(lambda: empty(harness))
    with pytest.raises(NotFound):
        await in_session(harness.database, read_job, job_id)


async def empty(harness: JobHarness) -> bool:
    return await harness.entry_count() == 0


async def test_an_entry_that_no_longer_belongs_to_its_job_does_nothing(harness: JobHarness) -> None:
    started: list[UUID] = []

    async def work(context: JobContext, _: Payload) -> None:
        started.append(context.id)

    ids = [await harness.submit() for _ in range(3)]
    await in_session(harness.database, enqueue, ids)
    async with harness.running(work):
        await eventually(lambda: empty(harness))
    assert sorted(started) == ids
    assert await harness.final_statuses() == ["succeeded"] * 3


async def test_an_unexpected_error_of_the_worker_does_not_lose_the_job(harness: JobHarness) -> None:
    async def work(context: JobContext, _: Payload) -> None:
        pass

    await harness.database.fetch("alter table jobs add constraint bug check (status <> 'running')")
    job_id = await harness.submit()
    with capture_logs() as logs:
        async with harness.running(work):
            await eventually(lambda: have([log for log in logs if log["event"] == "unhandled_error"], 1))
            await harness.database.fetch("alter table jobs drop constraint bug")
            assert (await harness.until(job_id, "succeeded")).attempts == 1


async def test_an_outage_is_not_counted_as_an_attempt(harness: JobHarness) -> None:
    """This one is only an error of the driver; tests/server/test_worker_process.py has a real one."""
    started: list[int] = []

    async def work(context: JobContext, _: Payload) -> None:
        started.append(context.attempt)
        if len(started) < 4:
            raise asyncpg.CannotConnectNowError("the database system is shutting down")

    job = await harness.outcome(work, job_attempts_max=1)
    assert (job.status, job.attempts, started) == ("succeeded", 1, [1, 1, 1, 1])
