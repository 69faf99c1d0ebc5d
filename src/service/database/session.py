"""The session: the statements of one request, job or command."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, Self

import asyncpg

from service.database.batch import Batch, BatchKey, Request, Result
from service.database.errors import DISCARD_CONNECTION_ERRORS
from service.database.pool import Pool
from service.database.servers import Connection


class Session:
    """Statements on one pooled connection, which is acquired for the first of them.

    A request that is rejected before its first statement takes no connection. A statement outside
    `transaction()` commits by itself. A session serves one task at a time.

    Every statement raises `Overloaded` if no connection becomes free in time, and `DatabaseUnavailable` while
    the database is down.
    """

    __slots__ = ("_batches", "_connection", "_pool", "_reusable")

    def __init__(self, pool: Pool, batches: Mapping[BatchKey[Any, Any], Batch[Any, Any]]) -> None:
        self._pool = pool
        self._batches = batches
        self._connection: Connection | None = None
        self._reusable = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, DISCARD_CONNECTION_ERRORS):
            self._reusable = False
        self.release()

    async def join(self, key: BatchKey[Request, Result], request: Request) -> Result:
        """Share a batch with the requests that arrive at the same time, and return this request's result.

        This session needs no connection for it. Raises the error that the batch has for this request.
        """
        return await self._batches[key].join(request)  # type: ignore[no-any-return]  # the key says the type

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._run(asyncpg.Connection.fetch, statement, arguments)  # type: ignore[no-any-return]

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record | None:
        return await self._run(asyncpg.Connection.fetchrow, statement, arguments)  # type: ignore[no-any-return]

    async def fetchval(self, statement: str, *arguments: object) -> Any:
        return await self._run(asyncpg.Connection.fetchval, statement, arguments)

    async def execute(self, statement: str, *arguments: object) -> None:
        await self._run(asyncpg.Connection.execute, statement, arguments)

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Literal["repeatable_read"] | None = None, readonly: bool = False
    ) -> AsyncIterator[None]:
        """Commit the block's statements together, or roll them back on an exception.

        Inside another transaction it is a savepoint.
        """
        connection = await self.connection()
        async with connection.transaction(isolation=isolation, readonly=readonly):
            yield
        self._pool.monitor.responses += 1

    async def connection(self) -> Connection:
        """Return the session's connection, for COPY, cursors and statements with a timeout of their own."""
        if self._connection is None:
            self._connection = await self._pool.acquire()
        return self._connection

    def release(self) -> None:
        """Return the connection to the pool; the next statement acquires another one.

        Handlers call this before they wait for something other than the database, such as the blob store.
        """
        if self._connection is not None:
            self._pool.release(self._connection, reusable=self._reusable)
            self._connection, self._reusable = None, True

    async def _run(self, method: Callable[..., Awaitable[Any]], statement: str, arguments: Any) -> Any:
        connection = self._connection or await self.connection()
        try:
            result = await method(connection, statement, *arguments)
        except DISCARD_CONNECTION_ERRORS:
            self._reusable = False
            raise
        self._pool.monitor.responses += 1
        return result
