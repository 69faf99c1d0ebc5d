"""The two ways to PostgreSQL, and the one session dependency.

SQL on `Database.pool` (asyncpg) where a feature exists for speed or contention; an `AsyncSession` with
advanced-alchemy repositories for plain record keeping. See docs/decisions/0002-two-ways-to-the-database.md.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import asyncpg
from advanced_alchemy.base import AdvancedDeclarativeBase, CommonTableAttributes
from advanced_alchemy.exceptions import RepositoryError
from asyncpg.pool import PoolConnectionProxy
from litestar.di import Provide
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from service import errors
from service.settings import Settings
from service.telemetry.meters import Meters
from service.telemetry.traces import OFF, Traces
from service.values import decode_json, encode_json

SCHEMA = "0005"
"""The newest revision in migrations/versions (a test compares)."""

SERVER_LATE_SECONDS = 1.0
"""The server ends a statement that takes too long; this much later it has to be gone itself."""

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"


class Base(CommonTableAttributes, AdvancedDeclarativeBase):
    """The base of all models; constraint names follow advanced-alchemy's convention."""

    __abstract__ = True


class Database:
    """A pool of asyncpg connections for statements, and a small SQLAlchemy pool for records."""

    pool: "asyncpg.Pool[asyncpg.Record]"

    def __init__(self, settings: Settings, meters: Meters | None = None, traces: Traces = OFF) -> None:
        self._settings = settings
        self._traces = traces
        self._waiting = 0
        self._dsn = dsn(settings)
        self._command_timeout = settings.statement_timeout_seconds + SERVER_LATE_SECONDS
        self._server_settings = {
            "application_name": "depot",
            "timezone": "UTC",
            "statement_timeout": _milliseconds(settings.statement_timeout_seconds),
            "idle_in_transaction_session_timeout": _milliseconds(settings.idle_transaction_timeout_seconds),
        }
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect_for_records,
            pool_size=settings.records_pool_size,
            max_overflow=0,
            pool_timeout=settings.pool_wait_seconds,
            pool_pre_ping=True,  # connections do not survive a restart of the database
            hide_parameters=True,  # its errors would bring secrets into the log
            json_serializer=lambda value: encode_json(value).decode(),
            json_deserializer=decode_json,
        )
        self.sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        if meters is not None:
            self._measure(meters)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Database"]:
        """Connect. Raises `OSError` or `asyncpg.PostgresError` when the database cannot be had."""
        self.pool = await asyncpg.create_pool(
            self._dsn,
            min_size=1,
            max_size=self._settings.pool_size,
            init=self._prepare,
            reset=_nothing_to_reset,
            command_timeout=self._command_timeout,
            timeout=self._settings.connect_timeout_seconds,
            server_settings=self._server_settings,
        )
        try:
            yield self
        finally:
            await self._engine.dispose()
            with suppress(TimeoutError):  # what has not ended by then, close() has terminated
                async with asyncio.timeout(self._settings.connect_timeout_seconds):
                    await self.pool.close()

    async def connect(self, command_timeout: float | None = None) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection outside the pool; without a timeout of its own it may be used for long work."""
        return await asyncpg.connect(
            self._dsn,
            command_timeout=command_timeout,
            timeout=self._settings.connect_timeout_seconds,
            server_settings=self._server_settings,
        )

    @asynccontextmanager
    async def own_connection(self) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
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

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool. Raises `Overloaded` when none gets free in time."""
        connection = await self._acquire()
        try:
            yield connection
        finally:
            await self.pool.release(connection)

    def _measure(self, meters: Meters) -> None:
        records = self._engine.pool
        assert isinstance(records, AsyncAdaptedQueuePool)  # noqa: S101  # what asyncio engines have, for mypy
        connections = meters.pool.labels
        meters.watch(connections("statements", "idle"), self._idle)
        meters.watch(connections("statements", "in_use"), lambda: self.pool.get_size() - self._idle())
        meters.watch(connections("records", "idle"), records.checkedin)
        meters.watch(connections("records", "in_use"), records.checkedout)
        meters.pool_max.labels("statements").set(self._settings.pool_size)
        meters.pool_max.labels("records").set(self._settings.records_pool_size)
        meters.watch(meters.pool_waiting, lambda: self._waiting)

    def _idle(self) -> int:
        return self.pool.get_idle_size()

    async def _acquire(self) -> Connection:
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.pool_wait_seconds):
                return await self.pool.acquire()
        except TimeoutError:
            busy = self.pool.get_size() == self.pool.get_max_size()
            raise errors.Overloaded if busy else errors.DatabaseUnavailable from None
        finally:
            self._waiting -= 1

    async def _connect_for_records(self) -> "asyncpg.Connection[asyncpg.Record]":
        connection = await self.connect(self._command_timeout)
        self._tell_statements(connection)
        return connection

    async def _prepare(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._tell_statements(connection)
        await connection.set_type_codec(
            "jsonb",
            schema="pg_catalog",
            encoder=lambda value: encode_json(value).decode(),
            decoder=decode_json,
        )

    def _tell_statements(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        if self._traces.on:
            connection.add_query_logger(self._traces.statement)

    async def session(self) -> AsyncIterator[AsyncSession]:
        """The generator dependency: one request, one transaction, committed before the reply is sent."""
        async with self.sessions() as session, session.begin():
            yield session


def dsn(settings: Settings) -> str:
    """The address as asyncpg takes it; SQLAlchemy's spelling of the scheme is accepted too."""
    if settings.database_url is None:
        raise ValueError("DATABASE_URL is not set")
    return settings.database_url.replace("+asyncpg://", "://", 1)


def root_cause(error: BaseException) -> BaseException:
    """The driver's error, out of what advanced-alchemy and SQLAlchemy wrap it in."""
    if isinstance(error, RepositoryError):
        error = error.__cause__ or error
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    return error


def session_dependency(database: Database) -> dict[str, Provide]:
    """The ONE generator dependency a route may have.

    The cleanups of two would run concurrently, and a failed commit would not reach the error handlers.
    """
    return {"session": Provide(database.session)}


async def _nothing_to_reset(_: object) -> None:
    """No statement of ours leaves state in the session, so the pool's RESET, a round trip, is saved."""


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
