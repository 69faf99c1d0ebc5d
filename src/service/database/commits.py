"""Detect commits that do not complete, and confirm those that are visible (decision 0019).

A commit that waits for a synchronous standby can be cancelled, by a timeout for example. PostgreSQL then
commits it locally only: it is visible, and lost in a failover. A later commit waits for all of the log before
it, so an empty one that comes back confirms every commit that was visible when it started.
"""

import asyncio
from asyncio import Task
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from time import monotonic

import asyncpg
import structlog

from service.database.background import BackgroundConnection
from service.database.batch_key import BatchKey
from service.database.errors import DATABASE_ERRORS
from service.database.monitor import DatabaseMonitor
from service.database.servers import Connection
from service.errors import DatabaseUnavailable
from service.tasks import ends_within, running, stop

log = structlog.get_logger()

CONFIRM_TIMEOUT_SECONDS = 0.7
"""Seconds that a reply waits for its confirmation."""
COMMIT_INTERVAL_SECONDS = 0.25
IDLE_INTERVAL_SECONDS = 2.0
"""The interval without a synchronous standby for which commits would wait."""
COMMIT_WAIT_SECONDS = 0.25
DURATIONS_KEPT = 20
MISSED_COMMITS_MAX = 2
"""Waits in a row after which the server is asked about the commit. One may be due to a slow event loop."""

COMMIT_EMPTY = """
select pg_is_in_recovery() as is_standby,
  case when current_setting('synchronous_standby_names') <> '' and not pg_is_in_recovery()
  then left(pg_walfile_name(pg_logical_emit_message(true, 'depot', '')), 8) end as timeline"""
"""A transaction that must be replicated. Returns the timeline that it was written to.

Without a synchronous standby it writes nothing, and the timeline is null.
"""

IS_WAITING = """
select exists (select from pg_stat_activity
  where query = $1 and wait_event in ('SyncRep', 'WALSync', 'WALWrite'))"""
"""Whether a commit of such a transaction waits for a standby or for the disk.

A machine that is merely slow must not count: without a standby the transaction is a read.
"""

SELECT_BLOCKED = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
"""It has no parameter: asyncpg would look up the type of an array, which takes two more round trips."""

CONFIRM_COMMITS: BatchKey[None, None] = BatchKey("confirm commits")
"""Joined by an operation that returns a change made earlier without writing anything."""


class CommitMonitor:
    """Commits empty transactions on a connection of its own, one at a time; callers share them."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        monitor: DatabaseMonitor,
        pooled: Collection[Connection],
    ) -> None:
        """`pooled` are the connections to give up while their commit is blocked."""
        self.is_blocked = False
        """Whether commits do not complete although the database answers reads."""
        self._connection = BackgroundConnection(connect)
        self._observer = BackgroundConnection(connect)
        self._monitor = monitor
        self._pooled = pooled
        self._committing = False
        self._timeline: str | None = None
        """The timeline of the last commit that was replicated."""
        self._durations: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self._interval_seconds = COMMIT_INTERVAL_SECONDS
        self._running: Task[None] | None = None
        self._next: Task[None] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await stop(self._running, self._next)
            await self._connection.finish()

    @asynccontextmanager
    async def watch(self, on_blocked: Callable[[], None]) -> AsyncIterator[None]:
        """Commit again and again, and call `on_blocked` from time to time while commits are blocked."""
        try:
            async with running(self._watch(on_blocked)):
                yield
        finally:
            await self._observer.finish()

    async def join(self, _: None = None, /) -> None:
        """Return once every commit that is visible now has been replicated, as the server is configured.

        Raises `DatabaseUnavailable` if that takes too long, or if the server has changed: what the caller saw
        may have been visible on a former primary only.
        """
        if self.is_blocked:
            raise DatabaseUnavailable
        timeline = self._timeline
        seconds = max(CONFIRM_TIMEOUT_SECONDS, 4 * self._usual_seconds)
        try:
            async with self._monitor.timeout(seconds):
                await asyncio.shield(self._next_commit())
        except DATABASE_ERRORS:
            raise DatabaseUnavailable from None
        if timeline not in (None, self._timeline):
            raise DatabaseUnavailable

    @property
    def _usual_seconds(self) -> float:
        """The shortest of the last commits; a standby far away makes all of them long."""
        return min(self._durations, default=self._monitor.round_trip_seconds)

    def _next_commit(self) -> Task[None]:
        """Return a commit that has not started: the running one may not cover what the caller saw."""
        if self._next is None:
            self._next = asyncio.create_task(self._commit_after(self._running))
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._next

    async def _commit_after(self, running: Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait({running})
        self._running, self._next = self._next, None
        try:
            connection = await self._connection.get()
            self._committing = True
            started = monotonic()
            [commit] = await connection.fetch(COMMIT_EMPTY)
            if commit["is_standby"]:  # it may show commits of its time as a primary that no other server has
                raise DatabaseUnavailable
            self._durations.append(monotonic() - started)
            self._timeline = commit["timeline"]
            self._interval_seconds = COMMIT_INTERVAL_SECONDS if self._timeline else IDLE_INTERVAL_SECONDS
        except DATABASE_ERRORS:
            self._connection.close()
            raise
        finally:
            self._committing = False

    async def _watch(self, on_blocked: Callable[[], None]) -> None:
        missed = 0
        while True:
            try:
                missed = 0 if await self._comes_back() else missed + 1
                self._set_blocked(blocked=missed >= MISSED_COMMITS_MAX and await self._is_waiting())
                if self.is_blocked:
                    await self._give_up_blocked()
                    on_blocked()
            except Exception:  # the loop must survive any error, or `is_blocked` would never be reset
                log.exception("unhandled_error")
            if not missed:
                await asyncio.sleep(self._interval_seconds)

    async def _comes_back(self) -> bool:
        commit = self._next_commit()
        wait_seconds = max(COMMIT_WAIT_SECONDS, 2 * self._usual_seconds)
        return await ends_within(wait_seconds, commit) or not self._committing

    async def _is_waiting(self) -> bool:
        """Ask the server whether the commit waits. If it does not say in time, the state stays as it is."""
        try:
            [row] = await self._observe(IS_WAITING, COMMIT_EMPTY)
        except DATABASE_ERRORS as error:
            log.warning("commit_not_observed", cause=repr(error))
            self._observer.close()
            return self.is_blocked
        return bool(row["exists"])

    async def _observe(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Query on a separate connection, which may first have to log in."""
        async with self._monitor.timeout(max(COMMIT_WAIT_SECONDS, 2 * self._monitor.login_seconds)):
            observer = await self._observer.get()
            return await observer.fetch(query, *arguments)

    def _set_blocked(self, *, blocked: bool) -> None:
        if blocked and not self.is_blocked:
            log.warning("commits_blocked")
        elif self.is_blocked and not blocked:
            log.info("commits_unblocked")
            self._observer.close()
        self.is_blocked = blocked

    async def _give_up_blocked(self) -> None:
        """Terminate pooled connections whose commit waits for a standby, so that reads get new ones.

        PostgreSQL continues to wait. A cancellation would make the commit visible, though no standby has it.
        """
        try:
            blocked = {row["pid"] for row in await self._observe(SELECT_BLOCKED)}
        except DATABASE_ERRORS as error:
            log.warning("blocked_commits_not_found", cause=repr(error))
            self._observer.close()
            return
        for connection in tuple(self._pooled):
            if not connection.is_closed() and connection.get_server_pid() in blocked:
                connection.terminate()
