"""Connection pool for statements: bounded, and first come, first served.

asyncpg's own pool creates a task, futures, a timer and a proxy per statement, an eighth of the CPU time of a
simple read (decision 0014).
"""

import asyncio
from asyncio import Task, TimerHandle
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic

import asyncpg
import structlog

from service import errors
from service.database.errors import DATABASE_ERRORS
from service.database.monitor import DatabaseMonitor
from service.database.servers import Connection

log = structlog.get_logger()

IDLE_SECONDS_MAX = 300.0
"""Maximum idle seconds; a firewall may have dropped an older connection."""
CLOSE_TIMEOUT_SECONDS = 1.0
"""Timeout in seconds for closing a connection."""
REGROW_SECONDS = 5.0
"""Seconds for which the pool stays smaller after the server has rejected a connection as one too many."""


class Pool:
    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        monitor: DatabaseMonitor,
        *,
        size_max: int,
        timeout_seconds: float,
    ) -> None:
        self.monitor = monitor
        self.in_use = 0
        self.waiters = 0
        """Number of callers waiting for a connection."""
        self._connect = connect
        self._size_max = size_max
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(size_max)
        self._idle: deque[tuple[Connection, float]] = deque()
        """Idle connections with the time they became idle. The most recently used one is reused first, so
        that surplus connections expire."""
        self._closing: set[Task[None]] = set()
        self._withheld: deque[TimerHandle] = deque()
        """One timer for each slot that is withheld while the server accepts no more connections."""

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def exhausted(self) -> bool:
        """Return whether a new caller must wait for a slot."""
        return self._slots.locked()

    @property
    def can_acquire_now(self) -> bool:
        """Return whether a caller gets a connection without waiting for a slot or a login."""
        self._discard_stale()
        return bool(self._idle) and not self._slots.locked()

    async def acquire(self) -> Connection:
        """Acquire a connection, opening one if none is idle.

        Raises `Overloaded` if none becomes free in time, `DatabaseUnavailable` while the database is down,
        and the errors of connecting.
        """
        if self.can_acquire_now:
            return await self._acquire()  # no timeout needed, which saves 20 µs
        self.waiters += 1
        try:
            async with self.monitor.timeout(max(self._timeout_seconds, 2 * self.monitor.login_seconds)):
                return await self._acquire()
        except TimeoutError:
            raise errors.Overloaded if self.exhausted else errors.DatabaseUnavailable from None
        finally:
            self.waiters -= 1

    def release(self, connection: Connection, *, reusable: bool = True) -> None:
        """Release a connection. It is discarded if it is closed, in a transaction, or not `reusable`."""
        self.in_use -= 1
        self._slots.release()
        if connection.is_closed():
            return
        if not reusable or connection.is_in_transaction():
            self._close_in_background(connection)
            return
        self._idle.append((connection, monotonic()))
        if self._is_expired(self._idle[0][1]):
            self._close_in_background(self._idle.popleft()[0])

    async def make_room(self) -> None:
        """Close one connection and shrink, so that the server accepts a connection beside the pool."""
        connection = await self.acquire()
        await _close(connection)
        self.in_use -= 1
        self._shrink()

    async def close(self) -> None:
        """Wait until all connections are released, then close them. None can be acquired afterwards."""
        while self._withheld:
            self._grow()
        for _ in range(self._size_max):
            await self._slots.acquire()
        while self._idle:
            self._close_in_background(self._idle.pop()[0])
        if self._closing:
            await asyncio.wait(self._closing)

    async def _acquire(self) -> Connection:
        while True:
            await self._slots.acquire()
            self.in_use += 1
            try:
                self._discard_stale()
                return self._idle.pop()[0] if self._idle else await self._connect()
            except BaseException as error:
                self.in_use -= 1
                if isinstance(error, asyncpg.TooManyConnectionsError) and self.in_use:
                    self._shrink()
                    continue  # wait for a connection that is in use
                self._slots.release()
                raise

    def _shrink(self) -> None:
        """Withhold a slot for a while, because the server accepts no more connections."""
        if not self._withheld:
            log.warning("server_connections_exhausted", pool_in_use=self.in_use, pool_max=self._size_max)
        grow = asyncio.get_running_loop().call_later(REGROW_SECONDS, self._grow)
        self._withheld.append(grow)

    def _grow(self) -> None:
        self._withheld.popleft().cancel()
        self._slots.release()

    def _discard_stale(self) -> None:
        while self._idle and (self._idle[-1][0].is_closed() or self._is_expired(self._idle[-1][1])):
            self._close_in_background(self._idle.pop()[0])

    def _close_in_background(self, connection: Connection) -> None:
        task = asyncio.create_task(_close(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _is_expired(self, idle_since: float) -> bool:
        return monotonic() - idle_since > IDLE_SECONDS_MAX


async def _close(connection: Connection) -> None:
    """Close a connection. The server cancels a running statement, which would otherwise keep its locks."""
    with suppress(*DATABASE_ERRORS):
        await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)  # on failure the connection is closed anyway
