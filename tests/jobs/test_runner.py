"""Whatever happens while a job runs: it ends once, and what went wrong is seen."""

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
from tests.support.reply_assertions import LEAK
from tests.support.workshop import Wish, Workshop


@pytest.fixture
def workshop(settings: Settings, database: Database) -> Workshop:
    return Workshop(settings, database)


async def fail(task: JobContext, _: Wish) -> None:
    raise RuntimeError("select * from secrets at /tmp/secret.py said asyncpg")


async def test_the_return_value_is_the_result(workshop: Workshop) -> None:
    async def make(task: JobContext, wish: Wish) -> Wish:
        return wish

    job = await workshop.outcome(make)
    assert (job.status, job.result, job.progress) == ("succeeded", {"pieces": 1}, 100)
    assert await workshop.ends() == ["succeeded"]
    assert await workshop.entries() == 0


async def test_an_error_is_tried_again_and_in_the_end_the_job_has_failed(workshop: Workshop) -> None:
    with capture_logs() as logs:
        job = await workshop.outcome(fail, job_attempts_max=2)
    assert (job.status, job.attempts) == ("failed", 2)
    assert await workshop.ends() == ["failed"]
    assert await workshop.entries() == 0
    later, failed = [log for log in logs if "job" in log and log["log_level"] in {"warning", "error"}]
    assert (later["event"], later["log_level"]) == ("job_retry_scheduled", "warning")
    assert (failed["event"], failed["log_level"], failed["attempt"]) == ("job_failed", "error", 2)
    assert isinstance(failed["exc_info"], RuntimeError)  # with its traceback


async def test_the_error_text_for_clients_reveals_nothing_internal(workshop: Workshop) -> None:
    job = await workshop.outcome(fail, job_attempts_max=1)
    assert job.error == "Unexpected RuntimeError"
    assert not LEAK.search(job.error)


async def test_while_it_waits_for_another_try_its_error_is_seen(workshop: Workshop) -> None:
    async with workshop.doing(fail):
        job_id = await workshop.wish()

        async def failed_once() -> bool:
            return (await in_session(workshop.database, read_job, job_id)).error is not None

        await eventually(failed_once)
        job = await in_session(workshop.database, read_job, job_id)
    assert (job.status, job.attempts, job.finished_at) == ("queued", 1, None)
    assert await workshop.ends() == []


def test_pauses_between_tries_double_up_to_five_minutes_with_jitter() -> None:
    for attempt, most in ((1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (100, 300)):
        pauses = {_backoff_seconds(attempt) for _ in range(100)}
        assert len(pauses) > 50
        assert most / 2 <= min(pauses) <= max(pauses) <= most


async def test_a_job_may_say_that_it_has_failed_for_good(workshop: Workshop) -> None:
    async def refuse(task: JobContext, _: Wish) -> None:
        raise JobFailed("Row 3 is bad", {"row": 3})

    job = await workshop.outcome(refuse)
    assert (job.status, job.attempts, job.error, job.result) == ("failed", 1, "Row 3 is bad", {"row": 3})


async def test_the_text_of_a_fault_is_shown_to_clients(workshop: Workshop) -> None:
    async def miss(task: JobContext, _: Wish) -> None:
        raise NotFound("There is no such report")

    assert (await workshop.outcome(miss, job_attempts_max=1)).error == "There is no such report"


async def test_a_result_that_cannot_be_stored_is_an_error_too(workshop: Workshop) -> None:
    async def make(task: JobContext, _: Wish) -> object:
        return object()

    job = await workshop.outcome(make, job_attempts_max=1)
    assert (job.status, job.error) == ("failed", "Unexpected DataError")


async def test_a_payload_that_is_no_longer_valid_fails_with_every_error(workshop: Workshop) -> None:
    async with workshop.doing(fail):
        job = await workshop.until(await workshop.wish({"pieces": "many", "colour": "red"}), "failed")
    assert job.attempts == 1
    assert job.error is not None
    for words in ("no longer valid", "/pieces: must be a whole number", "/colour"):
        assert words in job.error


async def test_a_job_of_an_unknown_kind_fails_visibly(workshop: Workshop) -> None:
    async with workshop.doing(fail, job_attempts_max=1):
        job = await workshop.until(await workshop.wish(kind="test.gone"), "failed")
    assert job.error == "Unknown job kind"


async def test_progress_is_written_now_and_then_and_never_goes_back(workshop: Workshop) -> None:
    seen: list[int] = []

    async def go(task: JobContext, _: Wish) -> None:
        for percent in (10, 20, 90, 50):
            await task.report_progress(percent)
            seen.append((await in_session(task.database, read_job, task.id)).progress)
            if percent != 10:
                await asyncio.sleep(PROGRESS_SECONDS)

    await workshop.outcome(go)
    assert seen == [0, 0, 90, 90]  # the first two came too soon


async def test_effect_and_end_commit_together(workshop: Workshop) -> None:
    async def work(task: JobContext, _: Wish) -> None:
        async with task.database.session() as session, session.transaction():
            await session.execute("insert into secrets (name, value) values ('made', $1)", b"x" * 32)
            await task.succeed(session, {"made": 1})
            assert (
                await in_session(task.database, read_job, task.id)
            ).status == "running"  # as others see it
            if task.attempt == 1:
                raise RuntimeError("not yet")

    job = await workshop.outcome(work)
    assert (job.status, job.attempts, job.result) == ("succeeded", 2, {"made": 1})
    assert await workshop.ends() == ["succeeded"]


async def test_a_superseded_run_changes_nothing(workshop: Workshop) -> None:
    taken, ours_over, kept = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(task: JobContext, _: Wish) -> str:
        if task.attempt == 2:
            taken.set()
            await kept.wait()
            return "theirs"
        await taken.wait()
        await asyncio.sleep(PROGRESS_SECONDS)
        await assert_superseded(task)
        ours_over.set()
        return "ours"

    async with AsyncExitStack() as first, asyncio.timeout(MAX_WAIT_SECONDS):
        # Its one place is taken, so it cannot take the lapsed job over itself.
        await first.enter_async_context(workshop.doing(work, worker_concurrency=1))
        job_id = await workshop.wish()
        await workshop.until(job_id, "running")
        await workshop.database.fetch("update queue.pgqueuer set heartbeat = now() - interval '1 hour'")
        async with workshop.doing(work):  # another worker, which believes the first one dead
            await ours_over.wait()
            await first.aclose()
            assert await workshop.entries() == 1  # the other's
            kept.set()
            job = await workshop.until(job_id, "succeeded")
    assert (job.attempts, job.result) == (2, "theirs")
    assert await workshop.ends() == ["succeeded"]


async def assert_superseded(task: JobContext) -> None:
    """A run that lost its job while the job goes on can write nothing."""
    with pytest.raises(JobSuperseded):
        await task.report_progress(50)
    with pytest.raises(JobSuperseded):
        async with task.database.session() as session, session.transaction():
            await session.execute("insert into secrets (name, value) values ('made', $1)", b"x" * 32)
            await task.succeed(session, "ours")
    assert await task.database.fetchval("select count(*) from secrets where name = 'made'") == 0
    for status in ("succeeded", "failed"):
        assert not await in_session(task.database, task.end, status, None, None)


async def have(found: list[Any], count: int) -> bool:
    return len(found) >= count


async def test_a_cancelled_run_changes_nothing(workshop: Workshop) -> None:
    superseded = asyncio.Event()

    async def work(task: JobContext, _: Wish) -> None:
        await asyncio.sleep(PROGRESS_SECONDS)
        with CancelScope(shield=True):  # the worker may hear of it before `cancel` returns
            await in_session(task.database, cancel, task.id, CLI, None)
            await assert_superseded(task)
            superseded.set()

    async with workshop.doing(work):
        job_id = await workshop.wish()
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            await superseded.wait()
        assert (await in_session(workshop.database, read_job, job_id)).status == "cancelled"
    assert await workshop.ends() == ["cancelled"]


async def test_a_job_whose_workers_die_is_not_restarted_forever(workshop: Workshop) -> None:
    job_id = await workshop.wish()
    await workshop.database.fetch("update jobs set status = 'running', attempts = 2")
    async with workshop.doing(fail, job_attempts_max=2):
        job = await workshop.until(job_id, "failed")
    assert job.error == "The job was started 2 times, and its worker died each time"


async def test_an_entry_without_a_job_does_no_harm(workshop: Workshop) -> None:
    job_id = await workshop.wish()
    await workshop.database.fetch("delete from jobs")
    async with workshop.doing(fail):
        await eventually(lambda: empty(workshop))
    with pytest.raises(NotFound):
        await in_session(workshop.database, read_job, job_id)


async def empty(workshop: Workshop) -> bool:
    return await workshop.entries() == 0


async def test_an_entry_that_is_not_the_jobs_any_more_does_nothing(workshop: Workshop) -> None:
    begun: list[UUID] = []

    async def work(task: JobContext, _: Wish) -> None:
        begun.append(task.id)

    ids = [await workshop.wish() for _ in range(3)]
    await in_session(workshop.database, enqueue, ids)
    async with workshop.doing(work):
        await eventually(lambda: empty(workshop))
    assert sorted(begun) == ids
    assert await workshop.ends() == ["succeeded"] * 3


async def test_a_bug_of_ours_does_not_lose_the_job(workshop: Workshop) -> None:
    async def work(task: JobContext, _: Wish) -> None:
        pass

    await workshop.database.fetch("alter table jobs add constraint bug check (status <> 'running')")
    job_id = await workshop.wish()
    with capture_logs() as logs:
        async with workshop.doing(work):
            await eventually(lambda: have([log for log in logs if log["event"] == "unhandled_error"], 1))
            await workshop.database.fetch("alter table jobs drop constraint bug")
            assert (await workshop.until(job_id, "succeeded")).attempts == 1


async def test_an_outage_is_no_try(workshop: Workshop) -> None:
    """Here only as the driver tells of it; a real one is in tests/server/test_worker_process.py."""
    begun: list[int] = []

    async def work(task: JobContext, _: Wish) -> None:
        begun.append(task.attempt)
        if len(begun) < 4:
            raise asyncpg.CannotConnectNowError("the database system is shutting down")

    job = await workshop.outcome(work, job_attempts_max=1)
    assert (job.status, job.attempts, begun) == ("succeeded", 1, [1, 1, 1, 1])
