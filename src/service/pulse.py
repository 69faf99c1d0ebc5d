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

from service.hosts import Connection

log = structlog.get_logger()

BEAT_SECONDS = 0.15
"""Between two looks."""
SILENCE_SECONDS = 0.15
SILENCES = 2
"""So many in a row without an answer to anybody, and it is away. The first may be our own event loop's: a
timer that is late by a busy moment fires before the answer that has long arrived is read."""
LOOK_SECONDS = 1.0
"""How long one look may take. Short, so that the next one is soon when packets were dropped."""

GONE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
)
"""Nobody is there, or somebody who ends or begins just now. Any other error is an answer too."""

Connect = Callable[[], Awaitable[Connection]]


class Pulse:
    """The one view of the database's health that all who use it share."""

    def __init__(self, connect: Connect, on_loss: Callable[[], None]) -> None:
        self.away = False
        self.answers = 0
        """Counted by those who get one: while there are any, the database is not away."""
        self.waits: set[Timeout] = set()
        """Of those who wait for a connection: they end at once when the database is lost."""
        self._connect = connect
        self._on_loss = on_loss
        self._connection: Connection | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait({watch})
            self._disconnect()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            look = asyncio.create_task(self._look())
            try:
                if await self._answered(look):
                    self._regain()
            except Exception:  # this loop outlives whatever it is: without it, away would be for ever
                log.exception("crash")
            finally:
                look.cancel()

    async def _answered(self, look: "Task[bool]") -> bool:
        silences = 0
        while not look.done():
            answers = self.answers
            await asyncio.wait({look}, timeout=SILENCE_SECONDS)
            silences = 0 if self.answers > answers else silences + 1
            if silences >= SILENCES and not look.done():
                self._lose()
        if not look.result() and silences:
            self._lose()
        return look.result()

    async def _look(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                # a connection that was cut says nothing about the next one
                return await self._ask() or await self._ask()
        except TimeoutError:
            self._disconnect()
            return False

    async def _ask(self) -> bool:
        try:
            if self._connection is None:
                self._connection = await self._connect()
            await self._connection.execute("select 1")
        except GONE:
            self._disconnect()
            return False
        except asyncpg.PostgresError:  # too many connections, a password that was changed: it is there
            pass
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    def _lose(self) -> None:
        if self.away:
            return
        self.away = True
        log.warning("database away")
        self._on_loss()
        now = asyncio.get_running_loop().time()
        for wait in self.waits:
            if not wait.expired():
                wait.reschedule(now)

    def _regain(self) -> None:
        if self.away:
            self.away = False
            log.info("database back")
