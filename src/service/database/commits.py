"""Confirms that commits that are visible have also been replicated (decision 0019).

A commit that waits for a synchronous standby can be cancelled, by a timeout for example. PostgreSQL then
commits it locally only: it is visible, and lost in a failover. A later commit waits for all of the log before
it, so an empty one that comes back confirms every commit that was visible when it started.
"""

import asyncio
from asyncio import Task
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from service.database.background import BackgroundConnection
from service.database.batch import BatchKey
from service.database.errors import DATABASE_ERRORS
from service.database.monitor import DatabaseMonitor
from service.database.servers import Connection
from service.errors import DatabaseUnavailable

CONFIRM_TIMEOUT_SECONDS = 0.7
"""Seconds after which a commit counts as not coming back."""

COMMIT_EMPTY = """
select case when current_setting('synchronous_standby_names') <> ''
  then pg_logical_emit_message(true, 'depot', '') end"""
"""A transaction that must be replicated. Without a synchronous standby it writes nothing."""

CONFIRM_COMMITS: BatchKey[None, None] = BatchKey("confirm commits")
"""Joined by an operation that returns a change made earlier without writing anything."""


class CommitMonitor:
    """Commits empty transactions on a connection of its own, one at a time; callers share them."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], monitor: DatabaseMonitor) -> None:
        self._connection = BackgroundConnection(connect)
        self._monitor = monitor
        self._running: Task[None] | None = None
        self._next: Task[None] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if tasks := {task for task in (self._running, self._next) if task is not None}:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            await self._connection.finish()

    async def join(self, _: None = None, /) -> None:
        """Return once every commit that is visible now has been replicated, as the server is configured.

        Raises `DatabaseUnavailable` if that takes too long.
        """
        if self._next is None:  # the running one may have started before the caller saw a commit
            self._next = asyncio.create_task(self._commit_after(self._running))
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        seconds = max(CONFIRM_TIMEOUT_SECONDS, 4 * self._monitor.round_trip_seconds)
        try:
            async with self._monitor.timeout(seconds):
                await asyncio.shield(self._next)
        except DATABASE_ERRORS:
            raise DatabaseUnavailable from None

    async def _commit_after(self, running: Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait({running})
        self._running, self._next = self._next, None
        try:
            connection = await self._connection.get()
            await connection.execute(COMMIT_EMPTY)
        except DATABASE_ERRORS:
            self._connection.close()
            raise
