"""Event streams of jobs: one listening connection per process, and one statement for all that changed."""

import asyncio
from asyncio import Event, Task
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TypeAlias
from uuid import UUID

import asyncpg
import structlog

from service.database.database import Database
from service.database.session import Session
from service.errors import Overloaded
from service.jobs import statements
from service.jobs.operations import read_job
from service.jobs.outage_errors import DATABASE_DOWN_ERRORS
from service.jobs.schemas import Job

log = structlog.get_logger()
ListenConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

KEEP_ALIVE_SECONDS = 15.0
"""Less than what load balancers take for a dead connection."""
WAKEUP_SECONDS = 0.25
"""How soon a drain is noticed, and how often a lost connection is tried again."""
FULL_POLL_SECONDS = 5.0
"""When a notification that got lost is made up for."""
POLL_WITHOUT_LISTEN_SECONDS = 1.0
"""The same while nobody listens, and how long it may take to begin to."""


class Subscriber:
    """One stream. A slow one skips states."""

    def __init__(self) -> None:
        self.news = Event()
        self.over = False
        self._latest: Job | None = None
        self._unsent: Job | None = None

    def tell(self, job: Job | None) -> None:
        """None: there is no such job any more."""
        if job is None:
            self.end()
        elif job != self._latest:
            self._latest = self._unsent = job
            self.news.set()

    def end(self) -> None:
        self.over = True
        self.news.set()

    async def next(self) -> Job | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                await self.news.wait()
        self.news.clear()
        job, self._unsent = self._unsent, None
        return job


class JobStreams:
    """The streams of this process. `draining` tells whether they have to end."""

    def __init__(self, database: Database, *, streams_max: int, draining: Callable[[], bool]) -> None:
        self._database = database
        self._streams_max = streams_max
        self._draining = draining
        self._followers: dict[UUID, set[Subscriber]] = {}
        self._changed: set[UUID] = set()
        self._woken = Event()
        self._task: Task[None] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._followers.values()))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._stop()

    async def follow(self, session: Session, job_id: UUID) -> AsyncGenerator[Job | None, None]:
        """The job as it is, and again whenever it has changed, until it has ended or the process drains.

        None: nothing has happened for a while. Raises `NotFound` or `Overloaded` before anything else.
        """
        if len(self) >= self._streams_max:
            raise Overloaded("Too many event streams are open")
        follower = Subscriber()
        self._followers.setdefault(job_id, set()).add(follower)
        try:
            await read_job(session, job_id)
            session.release()
            self._start(job_id)
            over = False
            while not over:  # once at least: the process may have begun to drain meanwhile
                job = await follower.next()
                yield job
                over = follower.over or (job is not None and job.ended)
        finally:
            self._leave(job_id, follower)

    def _start(self, job_id: UUID) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        self._on_notification(job_id)

    def _leave(self, job_id: UUID, follower: Subscriber) -> None:
        self._followers[job_id].discard(follower)
        if not self._followers[job_id]:
            del self._followers[job_id]
        if not self._followers:
            self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = None

    def _on_notification(self, job_id: UUID) -> None:
        if job_id in self._followers:
            self._changed.add(job_id)
            self._woken.set()

    async def _run(self) -> None:
        """Tell the followers, until the last one has left."""
        ear: ListenConnection | None = None
        look_at = 0.0
        try:
            while True:
                if ear is None or ear.is_closed():
                    ear, look_at = await self._listen(), 0.0
                if monotonic() >= look_at:
                    self._changed |= self._followers.keys()
                    look_at = monotonic() + (
                        POLL_WITHOUT_LISTEN_SECONDS if ear is None else FULL_POLL_SECONDS
                    )
                await self._publish_changes()
                if self._draining():
                    self._end_all()
                await self._wait()
        except Exception:  # the clients come again, and find a new one
            log.exception("unhandled_error")
            self._task = None
            self._end_all()
        finally:
            if ear is not None:
                ear.terminate()

    async def _listen(self) -> "ListenConnection | None":
        """None: it cannot be done now."""
        ear: ListenConnection | None = None
        try:
            async with asyncio.timeout(POLL_WITHOUT_LISTEN_SECONDS):
                ear = await self._database.connect()
                await ear.add_listener(
                    statements.CHANNEL, lambda *heard: self._on_notification(UUID(str(heard[-1])))
                )
        except DATABASE_DOWN_ERRORS:
            if ear is not None:
                ear.terminate()
            return None
        return ear

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(WAKEUP_SECONDS):
                await self._woken.wait()
        self._woken.clear()

    async def _publish_changes(self) -> None:
        asked = [job_id for job_id in self._changed if job_id in self._followers]
        self._changed.clear()
        if not asked:
            return
        try:
            rows = await self._database.fetch(statements.READ_MANY, asked)
        except DATABASE_DOWN_ERRORS:
            self._changed.update(asked)
            return
        jobs = {row["id"]: Job(*row) for row in rows}
        for job_id in asked:
            for follower in self._followers.get(job_id, ()):
                follower.tell(jobs.get(job_id))

    def _end_all(self) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.end()
