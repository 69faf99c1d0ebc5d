"""Job event streams: one LISTEN connection per process, and one statement for all changes."""

import asyncio
from asyncio import Event, Task
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import chain
from time import monotonic
from typing import TypeAlias
from uuid import UUID

import asyncpg
import structlog

from service.auth.validity import SELECT_VALID_KEYS
from service.database.database import Database
from service.database.errors import DATABASE_DOWN_ERRORS
from service.database.session import Session
from service.errors import Overloaded
from service.jobs import statements
from service.jobs.operations import read_job
from service.jobs.schemas import Job

log = structlog.get_logger()
ListenConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

KEEP_ALIVE_SECONDS = 15.0
"""The keep-alive interval, below the idle timeout of load balancers."""
WAKEUP_SECONDS = 0.25
"""The interval for noticing a drain and retrying a lost connection."""
FULL_POLL_SECONDS = 5.0
"""The interval of a full poll, which makes up for lost notifications."""
POLL_WITHOUT_LISTEN_SECONDS = 1.0
"""The poll interval without a LISTEN connection, and the timeout for opening one."""
KEY_CHECK_SECONDS = 1.0
"""The interval for ending the streams of revoked and expired keys."""
SHARE_PER_KEY = 0.75
"""The share of all streams that one API key may hold."""


class Subscriber:
    """One open stream. A slow client gets only the latest state."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.updated = Event()
        self.ended = False
        self._latest: Job | None = None
        self._unsent: Job | None = None

    def publish(self, job: Job | None) -> None:
        """Publish a job; None means that it no longer exists."""
        if job is None:
            self.end()
        elif job != self._latest:
            self._latest = self._unsent = job
            self.updated.set()

    def end(self) -> None:
        self.ended = True
        self.updated.set()

    async def next(self) -> Job | None:
        """Return the job after a change, or None after `KEEP_ALIVE_SECONDS` without one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                await self.updated.wait()
        self.updated.clear()
        job, self._unsent = self._unsent, None
        return job


class JobStreams:
    """The open streams of this process; they end when `draining` returns True."""

    def __init__(self, database: Database, *, streams_max: int, draining: Callable[[], bool]) -> None:
        self._database = database
        self._streams_max = streams_max
        self._streams_per_key_max = max(1, int(streams_max * SHARE_PER_KEY))
        self._draining = draining
        self._subscribers: dict[UUID, set[Subscriber]] = {}
        self._changed: set[UUID] = set()
        self._woken = Event()
        self._keys_checked_at = 0.0
        self._task: Task[None] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._subscribers.values()))

    def __iter__(self) -> Iterator[Subscriber]:
        return chain.from_iterable(self._subscribers.values())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._stop()

    async def follow(self, session: Session, job_id: UUID, key_id: str) -> AsyncGenerator[Job | None, None]:
        """Yield the job now and after each change until it ends, the key is revoked, or the process drains.

        Yields None as a keep-alive. Raises `NotFound` or `Overloaded` before it yields anything.
        """
        if len(self) >= self._streams_max:
            raise Overloaded("Too many event streams are open")
        if sum(subscriber.key_id == key_id for subscriber in self) >= self._streams_per_key_max:
            raise Overloaded("Too many event streams of this API key are open; close one first")
        subscriber = Subscriber(key_id)
        self._subscribers.setdefault(job_id, set()).add(subscriber)
        try:
            await read_job(session, job_id)
            session.release()
            self._start(job_id)
            ended = False
            while not ended:  # at least once, even if a drain has started
                job = await subscriber.next()
                yield job
                ended = subscriber.ended or (job is not None and job.is_final)
        finally:
            self._unsubscribe(job_id, subscriber)

    def _start(self, job_id: UUID) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        self._on_notification(job_id)

    def _unsubscribe(self, job_id: UUID, subscriber: Subscriber) -> None:
        self._subscribers[job_id].discard(subscriber)
        if not self._subscribers[job_id]:
            del self._subscribers[job_id]
        if not self._subscribers:
            self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = None

    def _on_notification(self, job_id: UUID) -> None:
        if job_id in self._subscribers:
            self._changed.add(job_id)
            self._woken.set()

    async def _run(self) -> None:
        """Publish changes until the last stream closes."""
        listener: ListenConnection | None = None
        poll_at = 0.0
        try:
            while True:
                if listener is None or listener.is_closed():
                    listener, poll_at = await self._listen(), 0.0
                if monotonic() >= poll_at:
                    self._changed |= self._subscribers.keys()
                    poll_at = monotonic() + (
                        POLL_WITHOUT_LISTEN_SECONDS if listener is None else FULL_POLL_SECONDS
                    )
                await self._publish_changes()
                await self._end_unauthorized()
                if self._draining():
                    self._end_all()
                await self._wait()
        except Exception:  # clients reconnect, which starts a new task
            log.exception("unhandled_error")
            self._task = None
            self._end_all()
        finally:
            if listener is not None:
                listener.terminate()

    async def _listen(self) -> "ListenConnection | None":
        """Return a LISTEN connection, or None if it cannot be opened."""
        listener: ListenConnection | None = None
        try:
            async with asyncio.timeout(POLL_WITHOUT_LISTEN_SECONDS):
                listener = await self._database.connect()
                await listener.add_listener(
                    statements.CHANNEL, lambda *message: self._on_notification(UUID(str(message[-1])))
                )
        except DATABASE_DOWN_ERRORS:
            if listener is not None:
                listener.terminate()
            return None
        return listener

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(WAKEUP_SECONDS):
                await self._woken.wait()
        self._woken.clear()

    async def _publish_changes(self) -> None:
        requested = [job_id for job_id in self._changed if job_id in self._subscribers]
        self._changed.clear()
        if not requested:
            return
        try:
            rows = await self._database.fetch(statements.READ_MANY, requested)
        except DATABASE_DOWN_ERRORS:
            self._changed.update(requested)
            return
        jobs = {row["id"]: Job(*row) for row in rows}
        for job_id in requested:
            for subscriber in self._subscribers.get(job_id, ()):
                subscriber.publish(jobs.get(job_id))

    async def _end_unauthorized(self) -> None:
        """End the streams whose key is no longer valid. While the database is down they continue."""
        if monotonic() < self._keys_checked_at + KEY_CHECK_SECONDS:
            return
        self._keys_checked_at = monotonic()
        key_ids = {subscriber.key_id for subscriber in self}
        try:
            valid = {row["id"] for row in await self._database.fetch(SELECT_VALID_KEYS, list(key_ids))}
        except DATABASE_DOWN_ERRORS:
            return
        for subscriber in self:
            if subscriber.key_id in key_ids - valid:
                subscriber.end()

    def _end_all(self) -> None:
        for subscriber in self:
            subscriber.end()
