"""Liveness, readiness and dependency health, based on one shared check."""

import asyncio
from asyncio import Task
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any, Literal

import asyncpg
import structlog
from litestar import Controller, get
from litestar.di import NamedDependency
from msgspec import UNSET, Meta, Struct, UnsetType

from service.blobs import STORAGE_ERRORS, BlobStore
from service.database.background import BackgroundConnection
from service.database.clock import is_skewed, measure_clock_skew
from service.database.database import READ_SCHEMA_VERSION, SCHEMA, Database
from service.database.errors import DATABASE_ERRORS
from service.errors import DatabaseUnavailable, Draining
from service.http.exchange import Exchange
from service.http.operation import operation
from service.http.reply import Reply
from service.http.request import StrictRequest
from service.tasks import stop
from service.values import Timestamp
from service.version import API_VERSION, VERSION

log = structlog.get_logger()
CHECK_TIMEOUT_SECONDS = 2.0
"""Seconds after which a database check fails and closes its connection. Callers do not wait that long."""
STATUS_TTL_SECONDS = 1.0
"""Seconds for which a check result is reused."""

SCHEMA_OUTDATED = "The database schema is outdated; run `depot migrate`"
COMMITS_BLOCKED = "Commits are blocked: the database waits for its synchronous standby"
READ_SCHEMA_AND_CLOCK = f"select ({READ_SCHEMA_VERSION}), clock_timestamp()"  # in one round trip
HAS_OVERDUE_ENTRIES = """
select exists (select from queue.pgqueuer where status = 'queued'
  and execute_after < now() - interval '60 seconds')"""
"""Whether a queue entry has been due for 60 seconds, which means that no worker is processing the queue."""

Connectivity = Literal["connected", "unreachable"]


class Dependencies(Struct):
    database: Connectivity
    storage: Connectivity
    queue: Annotated[
        Literal["connected", "delayed", "unreachable"],
        Meta(
            description="`delayed` means a job has been waiting for more than a minute; check your workers."
        ),
    ]


class Health(Struct):
    status: Literal["healthy", "degraded"]
    timestamp: Timestamp
    version: str
    depot_api_version: Annotated[
        str,
        Meta(description="Increased only by an incompatible change of the API.", examples=[API_VERSION]),
    ]
    dependencies: Dependencies
    clock_skew_seconds: Annotated[
        float | UnsetType,
        Meta(
            description="Seconds by which the clock of this process is ahead of the database's; "
            "negative if it is behind. Absent while the database is unreachable."
        ),
    ] = UNSET
    error: Annotated[
        dict[str, Any] | UnsetType,
        Meta(description="The fields of the error contract; only with status 503."),
    ] = UNSET


class Alive(Struct):
    status: Literal["alive"] = "alive"


class Ready(Struct):
    status: Literal["ready"] = "ready"


class DatabaseStatus(Struct, frozen=True):
    """Result of one database check. `schema` is None if the database is unreachable or was never migrated."""

    reachable: bool
    schema: str | None
    delayed: bool
    clock_skew_seconds: float
    checked_at: float

    @property
    def current(self) -> bool:
        return (self.schema or "") >= SCHEMA


UNREACHABLE = DatabaseStatus(False, None, False, 0.0, 0.0)


class Probe:
    """Health probe on a dedicated connection, so that an exhausted pool does not look like an outage."""

    def __init__(self, database: Database, blobs: BlobStore, *, timeout_seconds: float) -> None:
        self._blobs = blobs
        self._timeout_seconds = timeout_seconds
        self._connection = BackgroundConnection(database.connect)
        self._commits = database.commits
        self._database_check: Task[DatabaseStatus] | None = None
        self._status: DatabaseStatus | None = None
        self._storage_check: Task[bool] | None = None
        self._storage_checked_at = -STATUS_TTL_SECONDS
        self.draining = False

    async def database_status(self) -> DatabaseStatus:
        """Return a status at most `STATUS_TTL_SECONDS` old, within the timeout even if the database hangs.

        Concurrent callers share one check. A late check continues, because the login to a distant database
        and the first statements take longer than later ones.
        """
        if (
            self._status is not None
            and self._status.reachable
            and monotonic() - self._status.checked_at < STATUS_TTL_SECONDS
        ):
            return self._status
        check = self._database_check
        if check is None or check.done():
            check = self._database_check = asyncio.create_task(self._check_database())
        done, _ = await asyncio.wait({check}, timeout=self._timeout_seconds)
        return check.result() if done else UNREACHABLE

    @property
    def commits_blocked(self) -> bool:
        return self._commits.is_blocked

    async def storage_available(self) -> bool:
        """Return whether the blob store works, at most a second out of date.

        No answer within the timeout means no. Later callers share a hanging check, because its thread cannot
        be stopped.
        """
        check = self._storage_check
        if check is None or (check.done() and monotonic() - self._storage_checked_at >= STATUS_TTL_SECONDS):
            check = self._storage_check = asyncio.create_task(self._check_storage())
        done, _ = await asyncio.wait({check}, timeout=self._timeout_seconds)
        return bool(done) and check.result()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        status = await self.database_status()
        if status.reachable and not status.current:
            log.warning("schema_outdated", found=status.schema, needed=SCHEMA)
        if is_skewed(status.clock_skew_seconds):
            log.warning("clock_skewed", clock_skew_seconds=status.clock_skew_seconds)
        try:
            yield
        finally:
            await stop(self._database_check)
            if self._storage_check is not None:
                self._storage_check.cancel()
            await self._connection.finish()

    async def _check_storage(self) -> bool:
        try:
            await self._blobs.check()
        except STORAGE_ERRORS:
            return False
        finally:
            self._storage_checked_at = monotonic()
        return True

    async def _check_database(self) -> DatabaseStatus:
        reachable, delayed, skew = True, False, 0.0
        schema: str | None = None
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                connection = await self._connection.get()

                async def read_clock() -> datetime:
                    nonlocal schema
                    now: datetime
                    ((schema, now),) = await connection.fetch(READ_SCHEMA_AND_CLOCK)
                    return now

                skew = await measure_clock_skew(read_clock)
                delayed = (schema or "") >= SCHEMA and await connection.fetchval(HAS_OVERDUE_ENTRIES)
        except asyncpg.UndefinedTableError:
            pass
        except DATABASE_ERRORS:
            reachable = False
            self._connection.close()
        self._status = DatabaseStatus(reachable, schema, delayed, skew, monotonic())
        return self._status


class HealthController(Controller):
    path = "/health"
    tags = ["Health"]
    opt = {"public": True}

    @get(opt=operation(faults=[DatabaseUnavailable]))
    async def get_health(self, probe: NamedDependency[Probe], request: StrictRequest) -> Reply[Health]:
        """Check the service and its dependencies

        Returns 503 if the database is unreachable. Always answers within a second.
        """
        status, storage_available = await asyncio.gather(probe.database_status(), probe.storage_available())
        dependencies = _dependencies(status, storage_available=storage_available)
        connected = dependencies == Dependencies("connected", "connected", "connected")
        healthy = connected and not is_skewed(status.clock_skew_seconds) and not probe.commits_blocked
        content = Health(
            "healthy" if healthy else "degraded", datetime.now(UTC), VERSION, API_VERSION, dependencies
        )
        if status.reachable:
            content.clock_skew_seconds = status.clock_skew_seconds
            return Reply(content)
        fault = DatabaseUnavailable()
        content.error = Exchange.of(request.scope).error_fields(fault)
        return Reply(content, status_code=fault.status, headers={**fault.headers, "X-Error-Code": fault.code})

    @get("/live", sync_to_thread=False)
    def get_liveness(self) -> Alive:
        """Check liveness

        Checks no dependency. If it fails, restart the process.
        """
        return Alive()

    @get("/ready", opt=operation(faults=[Draining, DatabaseUnavailable]))
    async def get_readiness(self, probe: NamedDependency[Probe]) -> Ready:
        """Check readiness

        Returns 503 while draining, while the database is unreachable or its commits are blocked, or
        while its schema is outdated.
        """
        if probe.draining:
            raise Draining
        status = await probe.database_status()
        if not status.reachable:
            raise DatabaseUnavailable
        if probe.commits_blocked:
            raise DatabaseUnavailable(COMMITS_BLOCKED)
        if not status.current:
            raise DatabaseUnavailable(SCHEMA_OUTDATED)
        return Ready()


def _dependencies(status: DatabaseStatus, *, storage_available: bool) -> Dependencies:
    storage: Connectivity = "connected" if storage_available else "unreachable"
    if not status.reachable:
        return Dependencies("unreachable", storage, "unreachable")
    return Dependencies("connected", storage, "delayed" if status.delayed else "connected")
