"""The two ways to PostgreSQL, and the one session dependency.

SQL on `Database.pool` (asyncpg) where a feature exists for speed or contention; an `AsyncSession` with
advanced-alchemy repositories for plain record keeping. See docs/decisions/0002-two-ways-to-the-database.md.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import asyncpg
from litestar.di import Provide
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from service import errors
from service.database import orm
from service.database.monitor import PROBE_TIMEOUT_SECONDS, DatabaseMonitor
from service.database.pool import Pool
from service.database.servers import Connection, ServerList
from service.observability.metrics import Metrics
from service.observability.tracing import NO_TRACER, Tracer
from service.settings import Settings
from service.values import decode_json, encode_json

SCHEMA = "0007"
"""The newest revision in migrations/versions (a test compares)."""

CLIENT_TIMEOUT_MARGIN_SECONDS = 1.0
"""The server ends a statement that takes too long; this much later it has to be gone itself."""

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""No two clocks of a deployment differ by more than this: rows carry the time of whoever made them."""

DATABASE_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg may make of a connection that ends just now
    errors.Unavailable,
)
"""What a statement may fail with while the database is away, restarts or is overloaded."""

DISCARD_CONNECTION_ERRORS = (asyncio.CancelledError, TimeoutError, asyncpg.ReadOnlySQLTransactionError)
"""After these a connection is not kept: its statement may be under way, or its server is a standby now."""

OLDEST_OPEN_TRANSACTION = """
select least(now(), min(xact_start)) from pg_stat_activity
where datname = current_database() and backend_type = 'client backend'"""
"""Transactions that began before this have ended: a later query sees all they did."""


class Database:
    """A pool of asyncpg connections for statements, and a small SQLAlchemy pool for records."""

    pool: Pool

    def __init__(
        self, settings: Settings, metrics: Metrics | None = None, tracer: Tracer = NO_TRACER
    ) -> None:
        self._settings = settings
        self._tracer = tracer
        self.waiting = 0
        """So many wait for a connection of the pool."""
        self._hosts = ServerList(dsn(settings))
        # One object, so that the probe, which has less time than a silent server takes, asks the right one.
        self._direct = ServerList(direct_dsn(settings)) if settings.direct_database_url else self._hosts
        self._command_timeout = settings.statement_timeout_seconds + CLIENT_TIMEOUT_MARGIN_SECONDS
        self._server_settings = {
            "application_name": "depot",
            "timezone": "UTC",
            "statement_timeout": _milliseconds(settings.statement_timeout_seconds),
            "idle_in_transaction_session_timeout": _milliseconds(settings.idle_transaction_timeout_seconds),
        }
        self._connections: WeakSet[Connection] = WeakSet()
        self.pulse = DatabaseMonitor(
            lambda: self._connect(self._hosts, PROBE_TIMEOUT_SECONDS), self._terminate_connections
        )
        self._engine = orm.create_engine(self._connect_for_records, settings)
        self.sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        if metrics is not None:
            self._register_gauges(metrics)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Database"]:
        """Connect. Raises `OSError` or `asyncpg.PostgresError` when the database cannot be had."""
        self.pool = Pool(self._connect_for_statements, size_max=self._settings.pool_size)
        self.pool.give_back(await self.pool.take())
        async with self.pulse.open():
            try:
                yield self
            finally:
                await self._engine.dispose()
                await self._close()

    async def connect(self, command_timeout: float | None = None) -> Connection:
        """A connection outside the pool and past a pooler, so that it may listen and keep state.

        Without a timeout of its own it may be used for long work. Raises `DatabaseUnavailable` while the
        database is away.
        """
        async with self._wait_timeout(self._settings.connect_timeout_seconds):
            return await self._connect(self._direct, command_timeout=command_timeout)

    @asynccontextmanager
    async def dedicated_connection(self) -> AsyncIterator[Connection]:
        connection = await self.connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            return await connection.fetch(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record | None:
        async with self.connection() as connection:
            return await connection.fetchrow(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: object) -> Any:
        async with self.connection() as connection:
            return await connection.fetchval(statement, *arguments)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One connection in one transaction: committed at the end, rolled back on any exception."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    def connection(self) -> "PoolAcquireContext":
        """A connection of the pool, for `async with`.

        Raises `Overloaded` when none gets free in time, `DatabaseUnavailable` while the database is away.
        """
        return PoolAcquireContext(self)

    async def _acquire(self) -> Connection:
        if self.pool.ready:
            return await self.pool.take()  # without winding up a clock (20 µs)
        self.waiting += 1
        try:
            async with self._wait_timeout(self._settings.pool_wait_seconds):
                return await self.pool.take()
        except TimeoutError:
            raise errors.Overloaded if self.pool.exhausted else errors.DatabaseUnavailable from None
        finally:
            self.waiting -= 1

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(self._settings.connect_timeout_seconds):
                await self.pool.close()
        except TimeoutError:
            self._terminate_connections()

    @asynccontextmanager
    async def _wait_timeout(self, seconds: float) -> AsyncIterator[None]:
        """For waiting: `TimeoutError` after so long, `DatabaseUnavailable` at once if the database goes."""
        if self.pulse.away:
            raise errors.DatabaseUnavailable
        try:
            async with asyncio.timeout(seconds) as wait:
                self.pulse.waits.add(wait)
                try:
                    yield
                finally:
                    self.pulse.waits.discard(wait)
        except TimeoutError:
            if self.pulse.away:
                raise errors.DatabaseUnavailable from None
            raise

    async def _connect_for_records(self, **_: object) -> Connection:
        async with self._wait_timeout(self._settings.connect_timeout_seconds):
            connection = await self._connect(self._hosts, command_timeout=self._command_timeout)
        self._log_queries(connection)
        return connection

    async def _connect(
        self, hosts: ServerList, timeout_seconds: float | None = None, **options: Any
    ) -> Connection:
        connection = await hosts.connect(
            timeout_seconds or self._settings.connect_timeout_seconds,
            server_settings=self._server_settings,
            statement_cache_size=self._settings.statement_cache_size,
            **options,
        )
        self._connections.add(connection)
        return connection

    async def _connect_for_statements(self) -> Connection:
        connection = await self._connect(self._hosts, command_timeout=self._command_timeout)
        self._log_queries(connection)
        try:
            await connection.set_type_codec(
                "jsonb",
                schema="pg_catalog",
                encoder=lambda value: encode_json(value).decode(),
                decoder=decode_json,
            )
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _log_queries(self, connection: Connection) -> None:
        if self._tracer.enabled:
            connection.add_query_logger(self._tracer.record_statement)

    def _register_gauges(self, metrics: Metrics) -> None:
        connections, kept = metrics.pool.labels, orm.engine_pool(self._engine)
        metrics.track(connections("statements", "idle"), lambda: self.pool.idle)
        metrics.track(connections("statements", "in_use"), lambda: self.pool.lent)
        metrics.track(connections("records", "idle"), kept.checkedin)
        metrics.track(connections("records", "in_use"), kept.checkedout)
        metrics.pool_max.labels("statements").set(self._settings.pool_size)
        metrics.pool_max.labels("records").set(self._settings.records_pool_size)
        metrics.track(metrics.pool_waiting, lambda: self.waiting)

    def _terminate_connections(self) -> None:
        """End every statement under way: its answer would not come."""
        for connection in tuple(self._connections):
            connection.terminate()

    async def session(self) -> AsyncIterator[AsyncSession]:
        """The generator dependency: one request, one transaction, committed before the reply is sent."""
        async with self.sessions() as session, session.begin():
            yield session
        self.pulse.answers += 1


class PoolAcquireContext:
    """A connection, until the block ends. As a generator it would take 4% more CPU of a simple read."""

    __slots__ = ("_connection", "_database")
    _connection: Connection

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __aenter__(self) -> Connection:
        self._connection = await self._database._acquire()
        return self._connection

    async def __aexit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if error is None:
            self._database.pulse.answers += 1
        self._database.pool.give_back(self._connection, fit=not isinstance(error, DISCARD_CONNECTION_ERRORS))


def dsn(settings: Settings) -> str:
    """The address as asyncpg takes it; SQLAlchemy's spelling of the scheme is accepted too."""
    if settings.database_url is None:
        raise ValueError("DATABASE_URL is not set")
    return _asyncpg_url(settings.database_url)


def direct_dsn(settings: Settings) -> str:
    """Past a pooler that gives every transaction another session."""
    return _asyncpg_url(settings.direct_database_url or dsn(settings))


def session_dependency(database: Database) -> dict[str, Provide]:
    """The ONE generator dependency a route may have.

    The cleanups of two would run concurrently, and a failed commit would not reach the error handlers.
    """
    return {"session": Provide(database.session)}


def _asyncpg_url(url: str) -> str:
    return url.replace("+asyncpg://", "://", 1)


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
