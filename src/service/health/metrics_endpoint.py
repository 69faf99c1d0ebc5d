"""`GET /metrics`: process metrics, and metrics read from the database (decision 0010)."""

import asyncio
import platform
from asyncio import Task
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from prometheus_client import CollectorRegistry, Metric, generate_latest, start_http_server
from prometheus_client.core import InfoMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from service.errors import negotiate_media_type
from service.health.database_metrics import DatabaseMetrics
from service.http.request import StrictRequest
from service.observability.metrics import Metrics
from service.settings import Settings, StartupError, os_reason
from service.version import VERSION

TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text"
CONTENT_TYPES = {TEXT: f"{TEXT}; version=0.0.4", OPENMETRICS: f"{OPENMETRICS}; version=1.0.0; charset=utf-8"}
ENCODERS: dict[str, Callable[[Collector], bytes]] = {
    TEXT: generate_latest,
    OPENMETRICS: openmetrics.generate_latest,
}


class ProcessCollector(Collector):
    """Collector of all metrics that a process exposes."""

    def __init__(self, metrics: Metrics, more: Iterable[Metric] = ()) -> None:
        self._metrics = metrics
        self._more = more

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "depot_build",
            "Versions of Depot and Python.",
            {"version": VERSION, "python": platform.python_version()},
        )
        yield from self._metrics.collect()
        yield from self._more


class ScrapeCache:
    """Shares one rendered result among concurrent scrapes, so that scraping uses at most one core."""

    def __init__(self, metrics: Metrics, database_metrics: DatabaseMetrics) -> None:
        self._metrics = metrics
        self._database_metrics = database_metrics
        self._lock = asyncio.Lock()
        self._rendering: dict[str, Task[str]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if self._rendering:
                await asyncio.wait(self._rendering.values())
            await self._database_metrics.finish()

    async def text(self, media_type: str) -> str:
        task = self._rendering.get(media_type)
        if task is None:
            task = self._rendering[media_type] = asyncio.create_task(self._render(media_type))
            task.add_done_callback(lambda _: self._rendering.pop(media_type))
        return await asyncio.shield(task)

    async def _render(self, media_type: str) -> str:
        async with self._lock:
            self._metrics.sample()
            collector = ProcessCollector(self._metrics, await self._database_metrics.collect())
            # In a thread: encoding takes milliseconds and would block other requests.
            return (await asyncio.to_thread(ENCODERS[media_type], collector)).decode()


class MetricsController(Controller):
    """Access depends on `DEPOT_METRICS`, applied by the router in `app.py`."""

    tags = ["Health"]

    @get(media_type=TEXT)
    async def get_metrics(
        self, request: StrictRequest, scrapes: NamedDependency[ScrapeCache]
    ) -> Response[str]:
        """Get Prometheus metrics

        The format is Prometheus text, or OpenMetrics if the client prefers it. Without the database only
        process metrics are returned. Counters start at 0 when the service starts.
        """
        media_type = negotiate_media_type(request.headers.get("accept", ""), *ENCODERS)
        return Response(
            await scrapes.text(media_type), media_type=CONTENT_TYPES[media_type], headers={"Vary": "Accept"}
        )


def serve_worker_metrics(metrics: Metrics, settings: Settings) -> None:
    """Serve a worker's metrics on its configured port, if any, for the lifetime of the process.

    Raises `StartupError` if the port is not available.
    """
    if settings.worker_metrics_port is None:
        return
    registry = CollectorRegistry()
    registry.register(ProcessCollector(metrics))
    try:
        start_http_server(settings.worker_metrics_port, settings.host, registry)
    except OSError as error:
        where = f"{settings.host}:{settings.worker_metrics_port}"
        raise StartupError(f"cannot serve metrics on {where}: {os_reason(error)}") from None
