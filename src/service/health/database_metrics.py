"""Metrics read from the database, the same for all processes (decision 0010)."""

import asyncio
from asyncio import Task
from collections.abc import Iterable, Iterator
from contextlib import suppress
from time import monotonic

import asyncpg
from msgspec import Struct
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from service.database.background import BackgroundConnection
from service.database.database import Database
from service.database.errors import DATABASE_ERRORS
from service.database.servers import Connection
from service.jobs.kinds import KindRegistry
from service.tasks import stop

SNAPSHOT_TTL_SECONDS = 1.0
"""Seconds for which a result is reused."""
TIMEOUT_SECONDS = 0.5
"""Timeout in seconds of all queries; with the key lookup, a scrape must finish within a second."""
READ_TIMEOUT_SECONDS = 2.0
"""Seconds after which the queries fail and their connection is closed. A scrape does not wait that long."""
QUERY_TIMEOUT = "100ms"
"""Timeout of one query. The metrics of a slower query are missing, and the others are published."""
JOBS_MAX = 10_000
DELIVERIES_MAX = 1_000
"""Counts stop here, so that their cost does not grow with a backlog: this value means "or more". The rows of
one webhook's deliveries are far apart, so each of them costs a page."""
STATUSES = ("queued", "running", "failed")

_NEWEST = [f"(select kind, status from jobs where status = '{status}' order by id desc limit {JOBS_MAX})"
           for status in STATUSES]  # fmt: skip
JOBS = f"select kind, status, count(*) from ({' union all '.join(_NEWEST)}) newest group by kind, status"

# Ids begin with the time of creation, so the oldest due job of a kind is among the oldest queued ones.
OLDEST_JOBS = f"""
select j.kind, extract(epoch from now() - min(q.execute_after))::float8 as age
from (select kind, queue_id from jobs where status = 'queued' order by id limit {JOBS_MAX}) j
  join queue.pgqueuer q on q.id = j.queue_id
where q.status = 'queued' and q.execute_after <= now() group by j.kind"""

# Ordered, so that each webhook's part is read from the index of due deliveries.
PENDING_DELIVERIES = f"""
select count(*) from (
  select from webhooks w cross join lateral (
    select from deliveries d where d.webhook_id = w.id and d.due_at is not null
    order by d.due_at limit {DELIVERIES_MAX}) due
  where w.enabled limit {DELIVERIES_MAX}) pending"""

WEBHOOK_LAG = """
select greatest(0, extract(epoch from now() - min(oldest.due_at)))::float8
from webhooks w cross join lateral (
  select due_at from deliveries d where d.webhook_id = w.id and d.due_at is not null
  order by d.due_at limit 1) oldest
where w.enabled"""

QUERIES = (JOBS, OLDEST_JOBS, PENDING_DELIVERIES, WEBHOOK_LAG)


class DatabaseSnapshot(Struct):
    """The rows of each query that finished in time."""

    taken_at: float
    reachable: bool = False
    rows: dict[str, list[asyncpg.Record]] = {}


class DatabaseMetrics:
    """Reads on a dedicated connection, so that an exhausted pool does not look like an outage."""

    def __init__(self, database: Database, kinds: KindRegistry) -> None:
        self._database = database
        self._kinds = kinds
        self._connection = BackgroundConnection(self._connect)
        self._snapshot = DatabaseSnapshot(-SNAPSHOT_TTL_SECONDS)
        self._reading: Task[None] | None = None

    async def collect(self) -> list[Metric]:
        """Return the metrics read within the timeout, even if the database hangs.

        Not safe for concurrent calls. A late query continues, because the login to a distant database and the
        first statements take longer than later ones.
        """
        is_over = self._reading is None or self._reading.done()
        if is_over and monotonic() - self._snapshot.taken_at >= SNAPSHOT_TTL_SECONDS:
            self._snapshot = DatabaseSnapshot(monotonic())
            self._reading = asyncio.create_task(self._read(self._snapshot))
        if self._reading is not None:
            timeout_seconds = max(TIMEOUT_SECONDS, len(QUERIES) * self._database.monitor.round_trip_seconds)
            await asyncio.wait({self._reading}, timeout=timeout_seconds)
        return list(self._families(self._snapshot))

    async def finish(self) -> None:
        await stop(self._reading)
        await self._connection.finish()

    async def _read(self, snapshot: DatabaseSnapshot) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                connection = await self._connection.get()
                for query in QUERIES:
                    # A query that is too slow, or whose table does not exist yet, is left out.
                    with suppress(asyncpg.QueryCanceledError, asyncpg.SyntaxOrAccessError):
                        snapshot.rows[query] = await connection.fetch(query)
                    snapshot.reachable = True
        except DATABASE_ERRORS:
            self._connection.close()

    async def _connect(self) -> Connection:
        connection = await self._database.connect()
        await connection.execute(f"set statement_timeout = '{QUERY_TIMEOUT}'")
        return connection

    def _families(self, snapshot: DatabaseSnapshot) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "depot_database_up", "Whether the database answered this scrape.", float(snapshot.reachable)
        )
        rows = snapshot.rows
        if JOBS in rows:
            yield self._jobs(rows[JOBS])
        if OLDEST_JOBS in rows:
            yield self._oldest_jobs(rows[OLDEST_JOBS])
        if PENDING_DELIVERIES in rows:
            yield GaugeMetricFamily(
                "depot_webhook_deliveries_pending",
                f"Pending deliveries to enabled webhooks, counted up to {DELIVERIES_MAX}.",
                rows[PENDING_DELIVERIES][0][0],
            )
        if WEBHOOK_LAG in rows:
            yield GaugeMetricFamily(
                "depot_webhook_lag_seconds",
                "Age in seconds of the oldest due delivery.",
                rows[WEBHOOK_LAG][0][0] or 0.0,
            )

    def _jobs(self, rows: list[asyncpg.Record]) -> Metric:
        jobs = GaugeMetricFamily(
            "depot_jobs",
            "Jobs by kind and status: queued, running, and permanently failed until they are deleted. "
            f"Of each status the newest {JOBS_MAX} are counted.",
            labels=["kind", "status"],
        )
        counts = {(kind, status): count for kind, status, count in rows}
        for kind in self._kind_names(kind for kind, _ in counts):
            for status in STATUSES:
                jobs.add_metric([kind, status], counts.get((kind, status), 0))
        return jobs

    def _oldest_jobs(self, rows: list[asyncpg.Record]) -> Metric:
        ages = GaugeMetricFamily(
            "depot_job_oldest_due_seconds",
            "Age in seconds of the oldest due job that has not started.",
            labels=["kind"],
        )
        age_by_kind: dict[str, float] = {row["kind"]: row["age"] for row in rows}
        for kind in self._kind_names(age_by_kind):
            ages.add_metric([kind], age_by_kind.get(kind, 0.0))
        return ages

    def _kind_names(self, found: Iterable[str]) -> list[str]:
        return sorted({kind.name for kind in self._kinds} | set(found))
