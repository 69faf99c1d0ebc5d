"""CPU-bound work runs in processes of a pool."""

import asyncio
import os
import time

import psutil
import pytest
from anyio import CancelScope

from service.database.database import Database
from service.jobs.context import JobContext
from service.jobs.process import NICENESS
from service.settings import Settings
from tests.support.workshop import Wish, Workshop


@pytest.fixture
def workshop(settings: Settings, database: Database) -> Workshop:
    return Workshop(settings, database)


async def test_a_core_is_kept_busy_elsewhere(workshop: Workshop) -> None:
    async def work(task: JobContext, _: Wish) -> list[int]:
        return [
            await task.run_in_process(os.getpid),
            await task.run_in_process(os.getpriority, os.PRIO_PROCESS, 0),
        ]

    (process, niceness) = (await workshop.outcome(work)).result
    assert process != os.getpid()
    assert niceness >= NICENESS


async def test_as_many_cores_are_kept_busy_as_there_are(workshop: Workshop) -> None:
    async def work(task: JobContext, _: Wish) -> None:
        await asyncio.gather(*(task.run_in_process(time.sleep, 0.05) for _ in range(10)))

    assert (await workshop.outcome(work)).status == "succeeded"
    assert 1 <= len(pool()) <= (os.cpu_count() or 1)


def pool() -> list[psutil.Process]:
    """The processes of this one's pool."""
    return [child for child in psutil.Process().children() if "to_process" in " ".join(child.cmdline())]


async def test_a_process_that_was_cancelled_while_it_started_is_not_left_behind(workshop: Workshop) -> None:
    async def work(task: JobContext, _: Wish) -> None:
        for seconds in (0.01, 0.02, 0.04, 0.08):
            with CancelScope() as scope:
                asyncio.get_running_loop().call_later(seconds, scope.cancel)
                await task.run_in_process(time.sleep, 3600)
            assert scope.cancelled_caught
        assert await task.run_in_process(os.getpid) in {process.pid for process in pool()}

    before = len(pool())
    assert (await workshop.outcome(work, job_attempts_max=1)).status == "succeeded"
    assert len(pool()) <= before + 1
