"""Helpers for tests of the runner: a worker with one kind of job, which the test defines."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from service.database.database import Database
from service.events.journal import CLI
from service.jobs.context import JobContext
from service.jobs.kinds import Kind, KindRegistry
from service.jobs.operations import read_job, submit
from service.jobs.schemas import Job, JobCreate
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import eventually, in_session

FINAL_STATUSES = "select payload->>'status' from events where type = 'job.finished' order by id"
ENTRIES = "select count(*) from queue.pgqueuer"


class Payload(Struct, forbid_unknown_fields=True):
    units: int = 1


Run = Callable[[JobContext, Payload], Awaitable[Any]]


class JobHarness:
    """Submits jobs of one kind, runs them as the test defines, and reads their outcome."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database

    @asynccontextmanager
    async def running(self, run: Run, **settings: Any) -> AsyncIterator[Worker]:
        kinds = KindRegistry([Kind("test.job", Payload, run)])
        worker = Worker(
            replace(self.settings, **settings), self.database, kinds, schedules=(), grace_seconds=0
        )
        async with worker.open():
            yield worker

    async def submit(self, payload: object = None, kind: str = "test.job") -> UUID:
        return (await in_session(self.database, submit, JobCreate(kind, payload or {}), CLI, None)).id

    async def until(self, job_id: UUID, *statuses: str) -> Job:
        job = await in_session(self.database, read_job, job_id)

        async def there() -> bool:
            nonlocal job
            job = await in_session(self.database, read_job, job_id)
            return job.status in statuses

        await eventually(there)
        return job

    async def outcome(self, run: Run, **settings: Any) -> Job:
        """Run a job. Return it once it has ended and its queue entry and run are gone."""
        async with self.running(run, **settings) as worker:
            job = await self.until(await self.submit(), "succeeded", "failed")

            async def done() -> bool:
                return len(worker._runner) == 0 and await self.entry_count() == 0

            await eventually(done)
            return job

    async def final_statuses(self) -> list[str]:
        """Return the status in each `job.finished` event."""
        return [row[0] for row in await self.database.fetch(FINAL_STATUSES)]

    async def entry_count(self) -> int:
        count: int = await self.database.fetchval(ENTRIES)
        return count
