"""PgQueuer's driver, which survives outages of the database."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from typing import TypeAlias, TypeVar

import asyncpg
import structlog
from pgqueuer.adapters.drivers.asyncpg import Relay
from pgqueuer.core.tm import TaskManager
from pgqueuer.ports.driver import Driver, NotifyCallback

from service.database.database import Database
from service.database.errors import DATABASE_DOWN_ERRORS

log = structlog.get_logger()
T = TypeVar("T")
RawConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

RETRY_DELAYS_SECONDS = (0.1, 0.2, 0.5, 1.0)
"""Delays between reconnects; the last one repeats."""


class ReconnectingDriver(Driver):
    """One connection for statements and notifications, reopened whenever it is lost.

    Statements wait for the reconnect instead of failing: PgQueuer drops an entry that it cannot requeue,
    and shuts down after one failed poll once its longest running job is done.
    """

    def __init__(self, database: Database, *, timeout_seconds: float) -> None:
        self._database = database
        self._timeout_seconds = timeout_seconds
        self._connection: RawConnection | None = None
        self._listeners: dict[str, Relay] = {}
        self._lock = asyncio.Lock()
        self._shutdown = asyncio.Event()
        self._disconnected = False
        self._closed = False

    def close(self) -> None:
        """Close the connection. Later statements fail immediately instead of waiting for the database."""
        self._closed = True
        if self._connection is not None:
            self._connection.terminate()

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        rows = await self._with_retry(lambda connection: connection.fetch(query, *args))
        return [dict(row) for row in rows]

    async def execute(self, query: str, *args: object) -> str:
        return await self._with_retry(lambda connection: connection.execute(query, *args))

    async def notify(self, channel: str, payload: str) -> None:
        await self.execute("select pg_notify($1, $2)", channel, payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        """Replace the listener of a channel: a restarted queue manager registers a new one."""

        async def listen(connection: RawConnection) -> None:
            if channel in self._listeners:
                await connection.remove_listener(channel, self._listeners[channel])
            self._listeners[channel] = Relay(callback)
            await connection.add_listener(channel, self._listeners[channel])

        await self._with_retry(listen)

    async def _with_retry(self, statement: Callable[[RawConnection], Awaitable[T]]) -> T:
        async with self._lock:
            for delay_seconds in chain(RETRY_DELAYS_SECONDS, repeat(RETRY_DELAYS_SECONDS[-1])):
                if self._closed:
                    break
                try:
                    result = await statement(await self._get_connection())
                except (*DATABASE_DOWN_ERRORS, asyncpg.TransactionRollbackError) as error:
                    self._on_disconnect(error)
                    await asyncio.sleep(delay_seconds)
                else:
                    self._on_reconnect()
                    return result
        raise ConnectionAbortedError("The worker is shutting down")

    async def _get_connection(self) -> RawConnection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect(self._timeout_seconds)
            for channel, relay in self._listeners.items():
                await self._connection.add_listener(channel, relay)
        return self._connection

    def _on_disconnect(self, error: Exception) -> None:
        if not self._disconnected and not self._closed:
            log.warning("queue_disconnected", cause=repr(error))
        self._disconnected = True
        if self._connection is not None:
            self._connection.terminate()

    def _on_reconnect(self) -> None:
        if self._disconnected:
            log.info("queue_reconnected")
        self._disconnected = False

    # The rest of PgQueuer's driver interface.

    @property
    def shutdown(self) -> asyncio.Event:
        return self._shutdown

    @property
    def tm(self) -> TaskManager:
        return TaskManager()

    async def __aenter__(self) -> "ReconnectingDriver":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: PgQueuer's managers share the driver and may restart; its creator closes it."""
