"""The database monitor: detects a database that does not answer, so that nothing waits for it.

A silent server (a stopped process, a broken network) rejects nothing: running statements would wait for their
timeout, and new requests for a connection. A trivial statement on a dedicated connection, several times a
second, distinguishes silence from a slow statement. See docs/database.md.
"""

import asyncio
from asyncio import Task, Timeout
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import asyncpg
import structlog

from service.database.errors import CONNECTION_ERRORS
from service.database.servers import Connection
from service.errors import DatabaseUnavailable
from service.tasks import ends_within, running

log = structlog.get_logger()

PROBE_INTERVAL_SECONDS = 0.15
"""Seconds between two probes."""
REJECTED_LOGIN_INTERVAL_SECONDS = 2.0
"""Seconds between two logins while the server rejects them, for example because the password has changed. It
logs each of them, and some servers block a client after too many."""
RESPONSE_WAIT_SECONDS = 0.15
MISSED_RESPONSES_MAX = 2
"""Missed responses in a row, with no statement answered anywhere, before the database counts as down. A
single one may be caused by this process's event loop: after a busy moment, a late timer fires before the
response that has already arrived is read."""
PROBE_TIMEOUT_SECONDS = 1.0
"""Timeout in seconds of a login or a statement; short, so that a new one starts soon after packet loss. If
they took longer before, the timeout is a multiple of the measured time."""
LOGIN_TIMEOUT_MAX_SECONDS = 10.0
"""The timeout doubles with every login that takes longer, up to this."""
ROUND_TRIPS_KEPT = 20

Connect = Callable[[], Awaitable[Connection]]


class DatabaseMonitor:
    """The shared health state of the database."""

    def __init__(self, connect: Connect, on_down: Callable[[], None], role: str = "database") -> None:
        """`role` is the first word of its log events."""
        self.is_down = False
        self._role = role
        self.login_seconds = 0.0
        """Duration of the last login; 0 before the first one."""
        self._login_timeout = PROBE_TIMEOUT_SECONDS
        self._interval = PROBE_INTERVAL_SECONDS
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS_KEPT)
        self.responses = 0
        """Number of answered statements, incremented by all users. While it grows, the database is up."""
        self._pending_timeouts: set[Timeout] = set()
        self._connect = connect
        self._on_down = on_down
        self._connection: Connection | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            async with running(self._run()):
                yield
        finally:
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

    @property
    def round_trip_seconds(self) -> float:
        """The shortest of the last round trips; 0 before the first one."""
        return min(self._round_trips, default=0.0)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
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
            await ends_within(self._response_wait(), probe)
            missed = 0 if self.responses > responses else missed + 1
            if missed >= MISSED_RESPONSES_MAX and not probe.done():
                self._mark_down()
        if not probe.result() and missed:
            self._mark_down()
        return probe.result()

    def _response_wait(self) -> float:
        if self._connection is None:
            return self._login_timeout / MISSED_RESPONSES_MAX
        return max(RESPONSE_WAIT_SECONDS, 2 * self.round_trip_seconds)

    async def _probe(self) -> bool:
        try:
            # A dropped connection does not mean that the next one fails.
            return await self._ping() or await self._ping()
        except TimeoutError:
            if self._connection is None:
                self._login_timeout = min(2 * self._login_timeout, LOGIN_TIMEOUT_MAX_SECONDS)
            self._disconnect()
            return False

    async def _ping(self) -> bool:
        self._interval = PROBE_INTERVAL_SECONDS
        try:
            if self._connection is None:
                self._connection = await self._log_in()
            started = monotonic()
            await self._select_1(self._connection)
            self._round_trips.append(monotonic() - started)
        except TimeoutError:
            raise
        except CONNECTION_ERRORS:
            self._disconnect()
            return False
        except asyncpg.TooManyConnectionsError:  # the server is up, and accepts one soon
            pass
        except asyncpg.PostgresError:  # such as a changed password: the server is up
            if self._connection is None:
                self._interval = REJECTED_LOGIN_INTERVAL_SECONDS
        return True

    async def _select_1(self, connection: Connection) -> None:
        statement = asyncio.create_task(connection.execute("select 1"))
        try:
            if not await ends_within(max(PROBE_TIMEOUT_SECONDS, 4 * self.round_trip_seconds), statement):
                raise TimeoutError
            await statement
        finally:
            statement.cancel()

    async def _log_in(self) -> Connection:
        started = monotonic()
        async with asyncio.timeout(self._login_timeout):
            connection = await self._connect()
        self.login_seconds = monotonic() - started
        self._login_timeout = max(PROBE_TIMEOUT_SECONDS, 2 * self.login_seconds)
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    def _mark_down(self) -> None:
        if self.is_down:
            return
        self.is_down = True
        log.warning(f"{self._role}_down")
        self._on_down()
        now = asyncio.get_running_loop().time()
        for timeout in self._pending_timeouts:
            if not timeout.expired():
                timeout.reschedule(now)

    def _mark_up(self) -> None:
        if self.is_down:
            self.is_down = False
            log.info(f"{self._role}_up")
