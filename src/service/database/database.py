"""Database access: sessions for statements, advanced-alchemy's sessions for plain records.

See docs/decisions/0002-two-ways-to-the-database.md.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any
from weakref import WeakSet

import asyncpg
import structlog
from litestar.di import Provide
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from service.database import orm
from service.database.array_types import declare_array_types
from service.database.batch import Batcher, BatchKind
from service.database.batch_key import Batch, BatchKey, Request, Result
from service.database.commits import CONFIRM_COMMITS, CommitMonitor
from service.database.errors import DATABASE_ERRORS
from service.database.monitor import LOGIN_TIMEOUT_MAX_SECONDS, DatabaseMonitor
from service.database.pool import Pool
from service.database.servers import Connection, ServerList
from service.database.session import NO_STANDBY, READ_IDENTITY, Session
from service.database.url import direct_dsn, dsn, standby_settings
from service.errors import DatabaseUnavailable
from service.observability.metrics import Metrics
from service.observability.tracing import NO_TRACER, Tracer
from service.settings import Settings
from service.tasks import running
from service.values import decode_json, encode_json

log = structlog.get_logger()

SCHEMA = "0016"
"""The newest revision in migrations/versions (a test compares)."""
VERSION_TABLE = "schema_version"
READ_SCHEMA_VERSION = f"select max(version_num) as version_num from {VERSION_TABLE}"
"""One row. Its value is null if the table is empty."""

CLIENT_TIMEOUT_MARGIN_SECONDS = 1.0
"""Seconds the client waits beyond `statement_timeout`. If the server has not canceled the statement by then,
it is unreachable."""

ROOM_ATTEMPTS_MAX = 3
"""Connections of the pool that are closed for another one. The server counts a closed one for a moment."""

TIMELINE_INTERVAL_SECONDS = 2.0
"""Seconds between two comparisons of the servers' timelines, if there are several servers."""


class Database:
    """The pool behind sessions, a small SQLAlchemy pool for plain records, and dedicated connections."""

    pool: Pool

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        tracer: Tracer = NO_TRACER,
        role: str = "database",
    ) -> None:
        self._settings = settings
        self._tracer = tracer
        standby = standby_settings(settings)
        self.standby = None if standby is None else Database(standby, None, tracer, "standby")
        """The server for reads that may be behind."""
        self._servers = ServerList(dsn(settings))
        # One shared object, so that the health probe starts with the server that answered last: its timeout
        # is too short to try a silent server first.
        self._direct_servers = (
            ServerList(direct_dsn(settings)) if settings.direct_database_url else self._servers
        )
        self._command_timeout = settings.statement_timeout_seconds + CLIENT_TIMEOUT_MARGIN_SECONDS
        self._server_settings = {
            "timezone": "UTC",
            "statement_timeout": _milliseconds(settings.statement_timeout_seconds),
            "idle_in_transaction_session_timeout": _milliseconds(settings.idle_transaction_timeout_seconds),
        }
        self._connections: WeakSet[Connection] = WeakSet()
        self.monitor = DatabaseMonitor(
            lambda: self._connect(self._servers, LOGIN_TIMEOUT_MAX_SECONDS, repeat=True),
            self._terminate_connections,
            role,
        )
        self._engine = orm.create_engine(self._connect_for_records, self._count_response, settings)
        self._orm_sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._batches: dict[BatchKey[Any, Any], Batch[Any, Any]] = {}
        self._batchers: list[Batcher[Any, Any]] = []
        self._pooled: WeakSet[Connection] = WeakSet()
        self.commits = CommitMonitor(lambda: self._connect(self._servers), self.monitor, self._pooled)
        self.add_batch(CONFIRM_COMMITS, self.commits)
        if metrics is not None:
            self._register_gauges(metrics)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Database"]:
        """Open the pools. Connections are opened when they are needed, so the database may be down."""
        self.pool = Pool(
            self._connect_for_statements,
            self.monitor,
            size_max=self._settings.pool_size,
            timeout_seconds=self._settings.pool_wait_seconds,
        )
        standby = nullcontext() if self.standby is None else self.standby.open()
        async with standby, self.monitor.open(), self.commits.open(), self._following_promotions():
            try:
                yield self
            finally:
                for batcher in self._batchers:
                    await batcher.finish()
                await self._engine.dispose()
                await self._close()

    def _following_promotions(self) -> AbstractAsyncContextManager[None]:
        lists = {self._servers, self._direct_servers}
        return running(*(self._follow_promotions(servers) for servers in lists if servers.has_several))

    async def _follow_promotions(self, servers: ServerList) -> None:
        """Leave a server when another one was promoted, although it answers and accepts writes."""
        while True:
            await asyncio.sleep(TIMELINE_INTERVAL_SECONDS)
            if await servers.find_deposed(self._settings.connect_timeout_seconds):
                log.warning("deposed_server_left")
                self._terminate_connections()

    def session(self) -> Session:
        """Return a session, for `async with`."""
        return Session(self.pool, self._batches, self.standby.session if self.standby else None)

    async def for_long_reads(self) -> "Database":
        """Return the standby for long reads, or this database without one or while it is down."""
        if self.standby is None:
            return self
        try:
            identity = await self.fetchval(READ_IDENTITY)
            if await self.standby.fetchval(READ_IDENTITY) != identity:
                raise DatabaseUnavailable(NO_STANDBY)
        except DATABASE_ERRORS as error:
            log.warning("standby_read_failed", cause=repr(error))
            return self
        return self.standby

    def add_batch(self, key: BatchKey[Request, Result], batch: Batch[Request, Result]) -> None:
        """Let sessions join a batch that a feature runs itself."""
        self._batches[key] = batch

    def add_batches(self, kinds: Sequence[BatchKind[Any, Any]]) -> None:
        """Let sessions join batches of these kinds."""
        for kind in kinds:
            self._batchers.append(batcher := Batcher(kind, self.session, tracer=self._tracer))
            self.add_batch(kind.key, batcher)

    def orm_session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Return advanced-alchemy's session in one transaction, for `async with`."""
        return self._orm_sessions.begin()

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run one statement in a session of its own."""
        async with self.session() as session:
            return await session.fetch(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record | None:
        """Run one statement in a session of its own."""
        async with self.session() as session:
            return await session.fetchrow(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: object) -> Any:
        """Run one statement in a session of its own."""
        async with self.session() as session:
            return await session.fetchval(statement, *arguments)

    async def connect(self, command_timeout: float | None = None) -> Connection:
        """Open a dedicated connection that bypasses the pool and any external pooler.

        It can LISTEN and keep session state. Without `command_timeout` it may run long statements. Raises
        `DatabaseUnavailable` while the database is down.
        """
        async with self.monitor.timeout(self._settings.connect_timeout_seconds):
            connection = await self._connect_beside_pool(
                self._direct_servers, command_timeout=command_timeout
            )
        declare_array_types(connection)
        return connection

    @asynccontextmanager
    async def dedicated_connection(self) -> AsyncIterator[Connection]:
        connection = await self.connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(self._settings.connect_timeout_seconds):
                await self.pool.close()
        except TimeoutError:
            self._terminate_connections()

    async def _connect_for_records(self, **_: object) -> Connection:
        async with self.monitor.timeout(self._settings.connect_timeout_seconds):
            connection = await self._connect_beside_pool(self._servers, command_timeout=self._command_timeout)
        self._log_queries(connection)
        self._pooled.add(connection)
        return connection

    async def _connect_beside_pool(self, servers: ServerList, **options: Any) -> Connection:
        """Connect. While the server accepts no more connections, close one of the pool first."""
        for _ in range(ROOM_ATTEMPTS_MAX):
            try:
                return await self._connect(servers, **options)
            except asyncpg.TooManyConnectionsError:
                if servers is not self._servers:
                    raise
                await self.pool.make_room()
        return await self._connect(servers, **options)

    async def _connect(
        self, servers: ServerList, timeout_seconds: float | None = None, **options: Any
    ) -> Connection:
        connection = await servers.connect(
            timeout_seconds or self._settings.connect_timeout_seconds,
            server_settings=self._server_settings,
            statement_cache_size=self._settings.statement_cache_size,
            max_cached_statement_lifetime=0,  # asyncpg closes aged ones one by one, a round trip for each
            **options,
        )
        self._connections.add(connection)
        return connection

    async def _connect_for_statements(self) -> Connection:
        connection = await self._connect(self._servers, command_timeout=self._command_timeout)
        self._log_queries(connection)
        self._pooled.add(connection)
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
        declare_array_types(connection)
        return connection

    def _log_queries(self, connection: Connection) -> None:
        if self._tracer.enabled:
            connection.add_query_logger(self._tracer.record_statement)

    def _register_gauges(self, metrics: Metrics) -> None:
        connections, records = metrics.pool.labels, orm.engine_pool(self._engine)
        metrics.track(connections("statements", "idle"), lambda: self.pool.idle)
        metrics.track(connections("statements", "in_use"), lambda: self.pool.in_use)
        metrics.track(connections("records", "idle"), records.checkedin)
        metrics.track(connections("records", "in_use"), records.checkedout)
        metrics.pool_max.labels("statements").set(self._settings.pool_size)
        metrics.pool_max.labels("records").set(self._settings.records_pool_size)
        metrics.track(metrics.pool_waiting, lambda: self.pool.waiters)

    def _terminate_connections(self) -> None:
        """Terminate all connections, because running statements will get no response."""
        for connection in tuple(self._connections):
            connection.terminate()

    def _count_response(self) -> None:
        self.monitor.responses += 1


def session_dependency(database: Database) -> Provide:
    """Return the only generator dependency a route may use.

    Litestar would clean up two of them concurrently, and a failed commit would not reach the error handlers.
    """

    async def provide_session() -> AsyncIterator[Session]:
        async with database.session() as session:
            yield session

    return Provide(provide_session)


def orm_session_dependency(database: Database) -> Provide:
    """Return the dependency for plain records: one transaction, committed before the reply is sent."""

    async def provide_session() -> AsyncIterator[AsyncSession]:
        async with database.orm_session() as session:
            yield session

    return Provide(provide_session)


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
