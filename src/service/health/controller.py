"""Is the process alive, is it ready for traffic, are its dependencies well: one shared check behind all."""

import asyncio
from asyncio import Task
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from time import monotonic
from typing import Annotated, Any, Literal

import asyncpg
import structlog
from litestar import Controller, get
from litestar.di import NamedDependency
from msgspec import UNSET, Meta, Struct, UnsetType

from service.blobs import STORAGE_ERRORS as STORAGE_FAILURES
from service.blobs import BlobStore
from service.database.database import DATABASE_ERRORS, SCHEMA, Database
from service.errors import DatabaseUnavailable, Draining
from service.http.middleware import Exchange
from service.http.reply import Reply
from service.http.request import StrictRequest
from service.values import Timestamp

log = structlog.get_logger()
VERSION = version("depot")
STATUS_TTL_SECONDS = 1.0
"""How long one look at the database counts."""

SCHEMA_OUTDATED = "The database schema is behind: run `depot migrate`"
READ_SCHEMA_VERSION = "select version_num from schema_version"
HAS_OVERDUE_ENTRIES = """
select exists (select from queue.pgqueuer where status = 'queued'
  and execute_after < now() - interval '60 seconds')"""
"""Whether work has been due for so long that no worker can be at it."""

Connectivity = Literal["connected", "unreachable"]


class Dependencies(Struct):
    database: Connectivity
    storage: Connectivity
    queue: Annotated[
        Literal["connected", "delayed", "unreachable"],
        Meta(description="`delayed`: jobs have waited for a minute; are there workers?"),
    ]


class Health(Struct):
    status: Literal["healthy", "degraded"]
    timestamp: Timestamp
    version: str
    dependencies: Dependencies
    error: Annotated[
        dict[str, Any] | UnsetType,
        Meta(description="The error contract's facts, beside the rest, when the status is 503."),
    ] = UNSET


class Alive(Struct):
    status: Literal["alive"] = "alive"


class Ready(Struct):
    status: Literal["ready"] = "ready"


class DatabaseStatus(Struct, frozen=True):
    """What one look at the database found. `schema` None: unreachable, or never migrated."""

    reachable: bool
    schema: str | None
    delayed: bool
    at: float

    @property
    def current(self) -> bool:
        return (self.schema or "") >= SCHEMA


class Probe:
    """Looks at the database on a connection of its own, so that a busy pool does not read as an outage."""

    def __init__(self, database: Database, blobs: BlobStore, *, timeout_seconds: float) -> None:
        self._database = database
        self._blobs = blobs
        self._timeout_seconds = timeout_seconds
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._database_check: Task[DatabaseStatus] | None = None
        self._seen: DatabaseStatus | None = None
        self._storage_check: Task[bool] | None = None
        self._stored_at = -STATUS_TTL_SECONDS
        self.draining = False

    async def seen(self) -> DatabaseStatus:
        """Not older than `STATUS_TTL_SECONDS`, and within the timeout whatever the database does.

        Callers share one look.
        """
        if (
            self._seen is not None
            and self._seen.reachable
            and monotonic() - self._seen.at < STATUS_TTL_SECONDS
        ):
            return self._seen
        if self._database_check is None or self._database_check.done():
            self._database_check = asyncio.create_task(self._check_database())
        return await asyncio.shield(self._database_check)

    async def stores(self) -> bool:
        """Whether blobs can be kept, as of a second ago at most; no answer within the timeout is a no.

        A look that hangs is waited for by those who come next too: its thread cannot be stopped.
        """
        look = self._storage_check
        if look is None or (look.done() and monotonic() - self._stored_at >= STATUS_TTL_SECONDS):
            look = self._storage_check = asyncio.create_task(self._check_storage())
        done, _ = await asyncio.wait({look}, timeout=self._timeout_seconds)
        return bool(done) and look.result()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        seen = await self.seen()
        if seen.reachable and not seen.current:
            log.warning(SCHEMA_OUTDATED, found=seen.schema, needed=SCHEMA)
        try:
            yield
        finally:
            if self._database_check is not None:
                await self._database_check
            if self._storage_check is not None:
                self._storage_check.cancel()
            self._disconnect()

    async def _check_storage(self) -> bool:
        try:
            await self._blobs.check()
        except STORAGE_FAILURES:
            return False
        finally:
            self._stored_at = monotonic()
        return True

    async def _check_database(self) -> DatabaseStatus:
        reachable, schema, delayed = True, None, False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                connection = await self._get_connection()
                schema = await connection.fetchval(READ_SCHEMA_VERSION)
                delayed = (schema or "") >= SCHEMA and await connection.fetchval(HAS_OVERDUE_ENTRIES)
        except asyncpg.UndefinedTableError:
            pass
        except DATABASE_ERRORS:
            reachable = False
            self._disconnect()
        self._seen = DatabaseStatus(reachable, schema, delayed, monotonic())
        return self._seen

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    async def _get_connection(self) -> "asyncpg.Connection[asyncpg.Record]":
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
        return self._connection


class HealthController(Controller):
    path = "/health"
    tags = ["Health"]
    opt = {"public": True}

    @get(faults=[DatabaseUnavailable])
    async def get_health(self, probe: NamedDependency[Probe], request: StrictRequest) -> Reply[Health]:
        """Tell how the service and its dependencies are.

        503 when the database is unreachable. Answers within a second whatever the database does.
        """
        seen, stores = await asyncio.gather(probe.seen(), probe.stores())
        dependencies = _dependencies(seen, stores=stores)
        well = dependencies == Dependencies("connected", "connected", "connected")
        content = Health("healthy" if well else "degraded", datetime.now(UTC), VERSION, dependencies)
        if seen.reachable:
            return Reply(content)
        fault = DatabaseUnavailable()
        content.error = Exchange.of(request.scope).error_fields(fault)
        return Reply(content, status_code=fault.status, headers={**fault.headers, "X-Error-Code": fault.code})

    @get("/live", sync_to_thread=False)
    def get_liveness(self) -> Alive:
        """Tell that the process is alive.

        Touches nothing: if this fails, a restart is the remedy.
        """
        return Alive()

    @get("/ready", faults=[Draining, DatabaseUnavailable])
    async def get_readiness(self, probe: NamedDependency[Probe]) -> Ready:
        """Tell whether a load balancer may send traffic here.

        503 while draining, without the database, or with a schema that is behind.
        """
        if probe.draining:
            raise Draining
        seen = await probe.seen()
        if not seen.reachable:
            raise DatabaseUnavailable
        if not seen.current:
            raise DatabaseUnavailable(SCHEMA_OUTDATED)
        return Ready()


def _dependencies(seen: DatabaseStatus, *, stores: bool) -> Dependencies:
    storage: Connectivity = "connected" if stores else "unreachable"
    if not seen.reachable:
        return Dependencies("unreachable", storage, "unreachable")
    return Dependencies("connected", storage, "delayed" if seen.delayed else "connected")
