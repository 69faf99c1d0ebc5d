"""Feels whether PostgreSQL answers, so that nobody waits for one that does not.

A silent server (a stopped process, a broken network) refuses nothing: whoever is in a statement would wait
for its timeout, and whoever comes next for a connection. One tiny statement on a connection of its own, a few
times a second, tells silence from a statement that takes its time. See docs/database.md.
"""

import asyncio
from asyncio import Task, Timeout
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import structlog

from service.database.servers import Connection

log = structlog.get_logger()

PROBE_INTERVAL_SECONDS = 0.15
"""Between two looks."""
RESPONSE_WAIT_SECONDS = 0.15
MISSED_RESPONSES_MAX = 2
"""So many in a row without an answer to anybody, and it is away. The first may be our own event loop's: a
timer that is late by a busy moment fires before the answer that has long arrived is read."""
PROBE_TIMEOUT_SECONDS = 1.0
"""How long one look may take. Short, so that the next one is soon when packets were dropped."""

CONNECTION_ERRORS = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
)
"""Nobody is there, or somebody who ends or begins just now. Any other error is an answer too."""

Connect = Callable[[], Awaitable[Connection]]


class DatabaseMonitor:
    """The one view of the database's health that all who use it share."""

    def __init__(self, connect: Connect, on_down: Callable[[], None]) -> None:
        self.away = False
        self.answers = 0
        """Counted by those who get one: while there are any, the database is not away."""
        self.waits: set[Timeout] = set()
        """Of those who wait for a connection: they end at once when the database is lost."""
        self._connect = connect
        self._on_loss = on_down
        self._connection: Connection | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._run())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait({watch})
            self._disconnect()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)
            look = asyncio.create_task(self._probe())
            try:
                if await self._await_response(look):
                    self._mark_up()
            except Exception:  # this loop outlives whatever it is: without it, away would be for ever
                log.exception("unhandled_error")
            finally:
                look.cancel()

    async def _await_response(self, look: "Task[bool]") -> bool:
        silences = 0
        while not look.done():
            answers = self.answers
            await asyncio.wait({look}, timeout=RESPONSE_WAIT_SECONDS)
            silences = 0 if self.answers > answers else silences + 1
            if silences >= MISSED_RESPONSES_MAX and not look.done():
                self._mark_down()
        if not look.result() and silences:
            self._mark_down()
        return look.result()

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                # a connection that was cut says nothing about the next one
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
        except asyncpg.PostgresError:  # too many connections, a password that was changed: it is there
            pass
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    def _mark_down(self) -> None:
        if self.away:
            return
        self.away = True
        log.warning("database away")
        self._on_loss()
        now = asyncio.get_running_loop().time()
        for wait in self.waits:
            if not wait.expired():
                wait.reschedule(now)

    def _mark_up(self) -> None:
        if self.away:
            self.away = False
            log.info("database back")
