"""The session: the statements of one request, job or command."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, Self, TypeVar

import asyncpg
import structlog

from service.database.batch_key import Batch, BatchKey, Request, Result
from service.database.errors import DATABASE_ERRORS, DISCARD_CONNECTION_ERRORS
from service.database.pool import Pool
from service.database.servers import Connection
from service.errors import DatabaseUnavailable

log = structlog.get_logger()
T = TypeVar("T")

NO_STANDBY = "DEPOT_READ_DATABASE_URL names no standby of this database"
READ_IDENTITY = """
select format('%s/%s', system_identifier, oid) from pg_control_system(), pg_database
where datname = current_database()"""
"""A text that only a database and its physical copies have in common."""
READ_POSITION = f"select pg_current_wal_lsn()::text, ({READ_IDENTITY})"
READ_AGE = f"""
select case when pg_last_wal_replay_lsn() >= $1::text::pg_lsn then 0
  else extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) end::float8
where pg_is_in_recovery() and coalesce($2::text = ({READ_IDENTITY}), true)"""
"""The seconds by which a standby may be behind the position $1 of the primary: 0 if it has everything, else
the time since the last transaction that it has. Null if they are unknown, no row on a server that is no
standby of the database $2."""


class Session:
    """Statements on one pooled connection, which is acquired for the first of them.

    A request that is rejected before its first statement takes no connection. A statement outside
    `transaction()` commits by itself. A session serves one task at a time.

    Every statement raises `Overloaded` if no connection becomes free in time, and `DatabaseUnavailable` while
    the database is down.
    """

    __slots__ = ("_batches", "_connection", "_open_standby", "_pool", "_reusable")

    def __init__(
        self,
        pool: Pool,
        batches: Mapping[BatchKey[Any, Any], Batch[Any, Any]],
        open_standby: "Callable[[], Session] | None" = None,
    ) -> None:
        self._pool = pool
        self._batches = batches
        self._open_standby = open_standby
        self._connection: Connection | None = None
        self._reusable = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, DISCARD_CONNECTION_ERRORS):
            self._reusable = False
        self.release()

    def join(self, key: BatchKey[Request, Result], request: Request) -> Awaitable[Result]:
        """Share a batch with the requests that arrive at the same time, and return this request's result.

        This session needs no connection for it. Raises the error that the batch has for this request.
        """
        return self._batches[key].join(request)  # the key says the type

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._run(asyncpg.Connection.fetch, statement, arguments)  # type: ignore[no-any-return]

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record | None:
        return await self._run(asyncpg.Connection.fetchrow, statement, arguments)  # type: ignore[no-any-return]

    async def fetchval(self, statement: str, *arguments: object) -> Any:
        return await self._run(asyncpg.Connection.fetchval, statement, arguments)

    async def execute(self, statement: str, *arguments: object) -> None:
        await self._run(asyncpg.Connection.execute, statement, arguments)

    async def read_from_standby(self, work: "Callable[[Session], Awaitable[T]]") -> tuple[T, float | None]:
        """Read from the standby; return the result, and the seconds by which it may be behind.

        Without a standby, or if it cannot answer, the primary does, and the seconds are None.
        """
        if self._open_standby is not None:
            try:
                async with self._open_standby() as standby:
                    age_seconds = await standby.fetchval(READ_AGE, *await self._position())
                    if age_seconds is None:
                        raise DatabaseUnavailable(NO_STANDBY)
                    return await work(standby), age_seconds
            except asyncpg.QueryCanceledError:  # the statement takes too long, on the primary too
                raise
            except DATABASE_ERRORS as error:
                log.warning("standby_read_failed", cause=repr(error))
        return await work(self), None

    async def _position(self) -> tuple[str | None, str | None]:
        """Return the end of the primary's log and its identity, or None while the primary is down."""
        try:
            ((position, identity),) = await self.fetch(READ_POSITION)
        except DATABASE_ERRORS:
            return None, None
        finally:
            self.release()
        return position, identity

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
