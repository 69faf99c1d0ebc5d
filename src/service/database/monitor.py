"""The database monitor: detects a database that does not answer, so that nothing waits for it.

A silent server (a stopped process, a broken network) rejects nothing: running statements would wait for their
timeout, and new requests for a connection. A trivial statement on a dedicated connection, several times a
second, distinguishes silence from a slow statement. See docs/database.md.
"""

import asyncio
from asyncio import Task, Timeout
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import structlog

from service.database.errors import CONNECTION_ERRORS
from service.database.servers import Connection
from service.errors import DatabaseUnavailable

log = structlog.get_logger()

PROBE_INTERVAL_SECONDS = 0.15
"""Seconds between two probes."""
RESPONSE_WAIT_SECONDS = 0.15
MISSED_RESPONSES_MAX = 2
"""Missed responses in a row, with no statement answered anywhere, before the database counts as down. One may
be our own event loop's fault: after a busy moment a late timer fires before the response that has already
arrived is read."""
PROBE_TIMEOUT_SECONDS = 1.0
"""Timeout of one probe; short, so that a new one starts soon after packet loss."""

Connect = Callable[[], Awaitable[Connection]]


class DatabaseMonitor:
    """The shared health state of the database."""

    def __init__(self, connect: Connect, on_down: Callable[[], None]) -> None:
        self.is_down = False
        self.responses = 0
        """Number of answered statements, incremented by all users. While it grows, the database is up."""
        self._pending_timeouts: set[Timeout] = set()
        self._connect = connect
        self._on_down = on_down
        self._connection: Connection | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            self._disconnect()

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Bound a wait.

        Raises `TimeoutError` after `seconds`, or `DatabaseUnavailable` as soon as the database goes down.
        """
        if self.is_down:
            raise DatabaseUnavailable
        try:
            async with asyncio.timeout(seconds) as timeout:
                self._pending_timeouts.add(timeout)
                try:
                    yield
                finally:
                    self._pending_timeouts.discard(timeout)
        except TimeoutError:
            if self.is_down:
                raise DatabaseUnavailable from None
            raise

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)
            probe = asyncio.create_task(self._probe())
            try:
                if await self._await_response(probe):
                    self._mark_up()
            except Exception:  # the loop must survive any error, or `is_down` would never be reset
                log.exception("unhandled_error")
            finally:
                probe.cancel()

    async def _await_response(self, probe: "Task[bool]") -> bool:
        missed = 0
        while not probe.done():
            responses = self.responses
            await asyncio.wait({probe}, timeout=RESPONSE_WAIT_SECONDS)
            missed = 0 if self.responses > responses else missed + 1
            if missed >= MISSED_RESPONSES_MAX and not probe.done():
                self._mark_down()
        if not probe.result() and missed:
            self._mark_down()
        return probe.result()

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                # A dropped connection does not mean that the next one fails.
                return await self._ping() or await self._ping()
        except TimeoutError:
            self._disconnect()
            return False

    async def _ping(self) -> bool:
        try:
            if self._connection is None:
                self._connection = await self._connect()
            await self._connection.execute("select 1")
        except CONNECTION_ERRORS:
            self._disconnect()
            return False
        except asyncpg.PostgresError:  # such as too many connections or a changed password: the server is up
            pass
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    def _mark_down(self) -> None:
        if self.is_down:
            return
        self.is_down = True
        log.warning("database_down")
        self._on_down()
        now = asyncio.get_running_loop().time()
        for timeout in self._pending_timeouts:
            if not timeout.expired():
                timeout.reschedule(now)

    def _mark_up(self) -> None:
        if self.is_down:
            self.is_down = False
            log.info("database_up")
