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
from tests.support.job_harness import JobHarness, Payload


@pytest.fixture
def harness(settings: Settings, database: Database) -> JobHarness:
    return JobHarness(settings, database)


async def test_cpu_bound_work_runs_in_another_process_at_low_priority(harness: JobHarness) -> None:
    async def work(context: JobContext, _: Payload) -> list[int]:
        return [
            await context.run_in_process(os.getpid),
            await context.run_in_process(os.getpriority, os.PRIO_PROCESS, 0),
        ]

    (process, niceness) = (await harness.outcome(work)).result
    assert process != os.getpid()
    assert niceness >= NICENESS


async def test_there_is_at_most_one_process_per_core(harness: JobHarness) -> None:
    async def work(context: JobContext, _: Payload) -> None:
        await asyncio.gather(*(context.run_in_process(time.sleep, 0.05) for _ in range(10)))

    assert (await harness.outcome(work)).status == "succeeded"
    assert 1 <= len(pool()) <= (os.cpu_count() or 1)


def pool() -> list[psutil.Process]:
    """The processes of this one's pool."""
    return [child for child in psutil.Process().children() if "to_process" in " ".join(child.cmdline())]


async def test_a_process_whose_start_is_cancelled_ends(harness: JobHarness) -> None:
    async def work(context: JobContext, _: Payload) -> None:
        for seconds in (0.01, 0.02, 0.04, 0.08):
            with CancelScope() as scope:
                asyncio.get_running_loop().call_later(seconds, scope.cancel)
                await context.run_in_process(time.sleep, 3600)
            assert scope.cancelled_caught
        assert await context.run_in_process(os.getpid) in {process.pid for process in pool()}

    before = len(pool())
    assert (await harness.outcome(work, job_attempts_max=1)).status == "succeeded"
    assert len(pool()) <= before + 1
