"""A worker that knows one kind of job, which the test defines."""

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

ENDS = "select payload->>'status' from events where type = 'job.finished' order by id"
ENTRIES = "select count(*) from queue.pgqueuer"


class Wish(Struct, forbid_unknown_fields=True):
    pieces: int = 1


Run = Callable[[JobContext, Wish], Awaitable[Any]]


class Workshop:
    """A worker that knows one kind of job: what the test says."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database

    @asynccontextmanager
    async def doing(self, run: Run, **settings: Any) -> AsyncIterator[Worker]:
        kinds = KindRegistry([Kind("test.wish", Wish, run)])
        worker = Worker(
            replace(self.settings, **settings), self.database, kinds, schedules=(), grace_seconds=0
        )
        async with worker.open():
            yield worker

    async def wish(self, payload: object = None, kind: str = "test.wish") -> UUID:
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
        """Return the job once all that follows its end is done, the log line last."""
        async with self.doing(run, **settings) as worker:
            job = await self.until(await self.wish(), "succeeded", "failed")

            async def done() -> bool:
                return len(worker._runner) == 0 and await self.entries() == 0

            await eventually(done)
            return job

    async def ends(self) -> list[str]:
        """Return the events of the journal about the ends of jobs."""
        return [row[0] for row in await self.database.fetch(ENDS)]

    async def entries(self) -> int:
        count: int = await self.database.fetchval(ENTRIES)
        return count
