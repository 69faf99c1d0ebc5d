"""A dedicated connection that is opened in the background."""

import asyncio
from asyncio import Task
from collections.abc import Awaitable, Callable

from service.database.servers import Connection
from service.tasks import stop


class BackgroundConnection:
    """One connection that stays open. If a caller stops waiting for it, the login continues."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._opening: Task[Connection] | None = None

    async def get(self) -> Connection:
        """Return the connection, once it is open. Raises connection errors."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._opening)

    def close(self) -> None:
        """Terminate the connection, if it is open."""
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    async def finish(self) -> None:
        """Terminate the connection, and stop opening it."""
        await stop(self._opening)
        self.close()

    async def _open(self) -> Connection:
        try:
            self._connection = await self._connect()
        finally:
            self._opening = None
        return self._connection
