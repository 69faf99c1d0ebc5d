"""`GET /metrics`: the figures of the processes, and those that only the database knows (decision 0010)."""

import asyncio
import platform
from asyncio import Task
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from time import monotonic

import asyncpg
from litestar import Controller, Response, get
from litestar.di import NamedDependency
from msgspec import Struct
from prometheus_client import CollectorRegistry, Metric, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from service.database.database import Database
from service.database.errors import DATABASE_ERRORS
from service.errors import negotiate_media_type
from service.http.request import StrictRequest
from service.jobs.kinds import KindRegistry
from service.observability.metrics import Metrics
from service.settings import Settings, StartupError

TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text"
CONTENT_TYPES = {TEXT: f"{TEXT}; version=0.0.4", OPENMETRICS: f"{OPENMETRICS}; version=1.0.0; charset=utf-8"}
ENCODERS: dict[str, Callable[[Collector], bytes]] = {
    TEXT: generate_latest,
    OPENMETRICS: openmetrics.generate_latest,
}

SNAPSHOT_TTL_SECONDS = 1.0
"""How long one look at the database counts."""
QUERY_TIMEOUT_SECONDS = 0.5
"""How long it may take: with the look-up of a key, an answer has to come within a second."""

JOBS = """
select j.kind, j.status, count(*),
  extract(epoch from now() - min(q.execute_after) filter (where q.execute_after <= now()))::float8
from jobs j left join queue.pgqueuer q on q.id = j.queue_id and q.status = 'queued' and j.status = 'queued'
where j.status in ('queued', 'running', 'failed') group by j.kind, j.status"""
DELIVERIES = """
select count(*), greatest(0, extract(epoch from now() - min(d.due_at)))::float8
from deliveries d join webhooks w on w.id = d.webhook_id where w.enabled and d.due_at is not null"""


class DatabaseSnapshot(Struct, frozen=True):
    """What one look found."""

    at: float
    reachable: bool = False
    jobs: list[tuple[str, str, int, float | None]] | None = None
    deliveries: tuple[int, float | None] | None = None


class DatabaseMetrics:
    """What is the same for all processes. Asked on a connection of its own: a busy pool is no outage."""

    def __init__(self, database: Database, kinds: KindRegistry) -> None:
        self._database = database
        self._kinds = kinds
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._seen = DatabaseSnapshot(-SNAPSHOT_TTL_SECONDS)

    async def collected(self) -> list[Metric]:
        """Within `QUERY_TIMEOUT_SECONDS` whatever the database does. One at a time."""
        if monotonic() - self._seen.at >= SNAPSHOT_TTL_SECONDS:
            self._seen = await self._ask()
        return list(self._families(self._seen))

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    def _families(self, seen: DatabaseSnapshot) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "depot_database_up", "Whether the database answered this scrape.", float(seen.reachable)
        )
        if seen.jobs is not None:
            yield from self._jobs(seen.jobs)
        if seen.deliveries is not None:
            pending, lag = seen.deliveries
            yield GaugeMetricFamily(
                "depot_webhook_deliveries_pending", "Deliveries owed to enabled webhooks.", pending
            )
            yield GaugeMetricFamily(
                "depot_webhook_lag_seconds", "How long the longest due delivery has waited.", lag or 0.0
            )

    def _jobs(self, rows: list[tuple[str, str, int, float | None]]) -> Iterator[Metric]:
        jobs = GaugeMetricFamily(
            "depot_jobs", "Jobs queued, running, and failed for good (as long as they are kept).",
            labels=["kind", "status"],
        )  # fmt: skip
        age = GaugeMetricFamily(
            "depot_job_oldest_due_seconds", "How long the longest due job has waited to be begun.",
            labels=["kind"],
        )  # fmt: skip
        counts = {(kind, status): count for kind, status, count, _ in rows}
        waited = {kind: seconds for kind, status, _, seconds in rows if status == "queued"}
        for kind in sorted({*(kind.name for kind in self._kinds), *(kind for kind, _ in counts)}):
            for status in ("queued", "running", "failed"):
                jobs.add_metric([kind, status], counts.get((kind, status), 0))
            age.add_metric([kind], waited.get(kind) or 0.0)
        return iter((jobs, age))

    async def _ask(self) -> DatabaseSnapshot:
        found = DatabaseSnapshot(monotonic())
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_SECONDS):
                connection = await self._connected()
                await connection.execute("select 1")
                found = DatabaseSnapshot(monotonic(), reachable=True)
                jobs = [tuple(row) for row in await connection.fetch(JOBS)]
                row = await connection.fetchrow(DELIVERIES)
                found = DatabaseSnapshot(monotonic(), True, jobs, tuple(row or (0, None)))
        except DATABASE_ERRORS:
            self.disconnect()
        return found

    async def _connected(self) -> "asyncpg.Connection[asyncpg.Record]":
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
        return self._connection


class ProcessCollector(Collector):
    """All that a process shows, as the one source that encoders take."""

    def __init__(self, metrics: Metrics, more: Iterable[Metric] = ()) -> None:
        self._metrics = metrics
        self._more = more

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "depot_build", "What runs.", {"version": version("depot"), "python": platform.python_version()}
        )
        yield from self._metrics.collect()
        yield from self._more


class ScrapeCache:
    """What is asked for by several at once is made once: at most one core is busy with it."""

    def __init__(self, metrics: Metrics, figures: DatabaseMetrics) -> None:
        self._metrics = metrics
        self._figures = figures
        self._turn = asyncio.Lock()
        self._under_way: dict[str, Task[str]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if self._under_way:
                await asyncio.wait(self._under_way.values())
            self._figures.disconnect()

    async def text(self, media_type: str) -> str:
        task = self._under_way.get(media_type)
        if task is None:
            task = self._under_way[media_type] = asyncio.create_task(self._encoded(media_type))
            task.add_done_callback(lambda _: self._under_way.pop(media_type))
        return await asyncio.shield(task)

    async def _encoded(self, media_type: str) -> str:
        async with self._turn:
            self._metrics.sample()
            exposed = ProcessCollector(self._metrics, await self._figures.collected())
            # in a thread: it takes milliseconds in which others want to be answered
            return (await asyncio.to_thread(ENCODERS[media_type], exposed)).decode()


class MetricsController(Controller):
    """Whether it is open is the setting `metrics`, by the router around it."""

    tags = ["Health"]

    @get(media_type=TEXT)
    async def get_metrics(
        self, request: StrictRequest, scrapes: NamedDependency[ScrapeCache]
    ) -> Response[str]:
        """Show what Prometheus collects, as text, or as OpenMetrics for those who prefer it.

        Without the database it tells what the processes know. Counters begin at 0 with the service.
        """
        wanted = negotiate_media_type(request.headers.get("accept", ""), *ENCODERS)
        return Response(
            await scrapes.text(wanted), media_type=CONTENT_TYPES[wanted], headers={"Vary": "Accept"}
        )


def serve_worker_metrics(metrics: Metrics, settings: Settings) -> None:
    """Serve the metrics of a worker, if it is to have a port, as long as the process lives.

    Raises `StartupError` if the port cannot be had.
    """
    if settings.worker_metrics_port is None:
        return
    registry = CollectorRegistry()
    registry.register(ProcessCollector(metrics))
    try:
        start_http_server(settings.worker_metrics_port, settings.host, registry)
    except OSError as error:
        where = f"{settings.host}:{settings.worker_metrics_port}"
        raise StartupError(f"cannot show metrics on {where}: {error.strerror}") from None
