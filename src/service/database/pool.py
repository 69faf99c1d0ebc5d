"""The connections that statements run on: bounded in number, lent in the order of asking.

asyncpg's own pool makes a task, futures, a timer and a proxy for every statement: an eighth of the CPU of a
simple read (decision 0014).
"""

import asyncio
from asyncio import Task
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic

import asyncpg

from service.database.servers import Connection

IDLE_SECONDS_MAX = 300.0
"""A connection that lay idle for longer is not used again: a firewall may have forgotten it."""
CLOSE_TIMEOUT_SECONDS = 1.0
"""How long the server may take to end the last statement of one that is closed."""


class Pool:
    def __init__(self, connect: Callable[[], Awaitable[Connection]], *, size_max: int) -> None:
        self.lent = 0
        self._connect = connect
        self._size_max = size_max
        self._slots = asyncio.Semaphore(size_max)
        self._idle: deque[tuple[Connection, float]] = deque()
        """And since when. The one used last is lent first, so that those too many get old."""
        self._closing: set[Task[None]] = set()

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def exhausted(self) -> bool:
        """Whether who asks now has to wait for a turn."""
        return self._slots.locked()

    @property
    def ready(self) -> bool:
        """Whether who asks now waits for nothing: neither for a turn nor for the server."""
        self._discard_stale()
        return bool(self._idle) and not self._slots.locked()

    async def take(self) -> Connection:
        """Raises what connecting raises, if none is idle."""
        await self._slots.acquire()
        try:
            self._discard_stale()
            connection = self._idle.pop()[0] if self._idle else await self._connect()
        except BaseException:
            self._slots.release()
            raise
        self.lent += 1
        return connection

    def give_back(self, connection: Connection, *, fit: bool = True) -> None:
        """One that is not fit, closed, or in a transaction is not lent again."""
        self.lent -= 1
        self._slots.release()
        if connection.is_closed():
            return
        if not fit or connection.is_in_transaction():
            self._close_in_background(connection)
            return
        self._idle.append((connection, monotonic()))
        if self._is_expired(self._idle[0][1]):
            self._close_in_background(self._idle.popleft()[0])

    async def close(self) -> None:
        """Wait until all are given back, and take leave of the server. Nobody gets one any more."""
        for _ in range(self._size_max):
            await self._slots.acquire()
        while self._idle:
            self._close_in_background(self._idle.pop()[0])
        if self._closing:
            await asyncio.wait(self._closing)

    def _discard_stale(self) -> None:
        while self._idle and (self._idle[-1][0].is_closed() or self._is_expired(self._idle[-1][1])):
            self._close_in_background(self._idle.pop()[0])

    def _close_in_background(self, connection: Connection) -> None:
        leaving = asyncio.create_task(_close(connection))
        self._closing.add(leaving)
        leaving.add_done_callback(self._closing.discard)

    def _is_expired(self, since: float) -> bool:
        return monotonic() - since > IDLE_SECONDS_MAX


async def _close(connection: Connection) -> None:
    """The server is told to end what is under way: it would go on, and keep its locks."""
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        await connection.close(
            timeout=CLOSE_TIMEOUT_SECONDS
        )  # which, when it fails, has closed it all the same
