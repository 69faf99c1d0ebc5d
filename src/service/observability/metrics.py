"""Metrics of this process, or of all processes that share a directory (decision 0010)."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from time import monotonic, process_time
from typing import Any, Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MultiProcessValue

from service.tasks import running

disable_created_metrics()  # they double the number of series, and do not exist with several processes

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
TICK_SECONDS = 1.0
"""Sampling interval of gauges in seconds."""
UNROUTED, OTHER = "unrouted", "other"
ZERO_INITIALIZED_CODES = ("INTERNAL_ERROR", "OVERLOADED", "DATABASE_UNAVAILABLE")
"""Codes that start at 0; otherwise Prometheus would not see the first one as an increase."""
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
RUN_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
ORDER_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)

Outcome = Literal["succeeded", "failed", "cancelled", "retried", "superseded", "interrupted"]


def use_shared_directory(directory: str, slot: int) -> None:
    """Store the metrics of this process in `directory`, next to those of its siblings.

    It must be called before any metric is created. A process that takes over a slot continues its
    predecessor's counters, so no count is lost and there are never more files than slots.
    """
    os.environ[DIRECTORY_VARIABLE] = directory
    values.ValueClass = MultiProcessValue(process_identifier=lambda: slot)


class JobRun:
    """A job run; it counts as interrupted unless an outcome is set."""

    outcome: Outcome = "interrupted"


class Metrics:
    """All metrics. Labels have few values: never a path, an id or client input."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._shared = os.environ.get(DIRECTORY_VARIABLE)
        self._tracked: list[tuple[Gauge, Callable[[], float]]] = []
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._rejections: dict[str, tuple[Counter, Counter]] = {}
        self._cpu_seconds = 0.0
        self._create_request_metrics()
        self._create_database_metrics()
        self._create_background_metrics()

    def _create_request_metrics(self) -> None:
        self.requests = self._counter(
            "http_requests", "Requests by route template, method and status.", "route", "method", "status"
        )
        self.request_seconds = self._histogram(
            "http_request_seconds",
            "Seconds from the start of request handling to the end of the reply.",
            DURATION_BUCKETS,
            "route",
            "method",
        )
        self.errors = self._counter("http_errors", "Error replies by error code.", "code")
        for code in ZERO_INITIALIZED_CODES:
            self.errors.labels(code)
        self.in_flight = self._gauge("http_requests_in_flight", "Requests in progress.")
        self.in_flight_limit = self._gauge("http_in_flight_limit", "Current concurrency limit.")
        self.streams = self._gauge("job_streams_open", "Event streams of jobs in progress.")
        self.uploads = self._gauge("uploads_in_flight", "Uploads in progress.")
        self.rate_limit_unchecked = self._counter(
            "rate_limit_unchecked", "Requests that passed unchecked while the rate limit store was down."
        )

    def _create_database_metrics(self) -> None:
        self.pool = self._gauge(
            "db_pool_connections", "Connections to PostgreSQL, idle and in use.", "pool", "state"
        )
        self.pool_max = self._gauge("db_pool_connections_max", "Maximum number of connections.", "pool")
        self.pool_waiting = self._gauge("db_pool_waiting", "Requests that wait for a database connection.")
        self.placement_orders = self._histogram(
            "placement_batch_orders", "Orders committed together.", ORDER_BUCKETS
        )
        self.placement_seconds = self._histogram(
            "placement_flush_seconds", "Duration of an order commit in seconds.", DURATION_BUCKETS
        )
        self.placement_waiting = self._gauge("placement_waiting", "Orders that wait to be committed.")

    def _create_background_metrics(self) -> None:
        self.attempts = self._counter(
            "webhook_attempts",
            "Delivery attempts by outcome: delivered, retried, failed (the last), gone (410).",
            "outcome",
        )
        self.attempt_seconds = self._histogram(
            "webhook_attempt_seconds", "Duration of a delivery attempt in seconds.", DURATION_BUCKETS
        )
        self.attempts_in_flight = self._gauge("webhook_attempts_in_flight", "Delivery attempts in progress.")
        self.runs = self._counter("job_runs", "Job runs by outcome.", "kind", "outcome")
        self.run_seconds = self._histogram(
            "job_run_seconds", "Duration of a job run in seconds.", RUN_BUCKETS, "kind"
        )
        self.running = self._gauge("job_runs_in_flight", "Job runs in progress.")
        self.lag = self._histogram(
            "event_loop_lag_seconds", "Event loop lag in seconds, sampled once a second.",
            LAG_BUCKETS,
        )  # fmt: skip
        self.cpu = self._counter(
            "process_cpu_seconds", "CPU seconds used, without terminated child processes."
        )

    def open(self) -> AbstractAsyncContextManager[None]:
        """Sample the tracked gauges once a second until the block ends."""
        return running(self._tick())

    def track(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Set a gauge from a function at every sample."""
        self._tracked.append((gauge, read))

    def observe_request(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count a request. It is called for every one, so label lookups are cached in one dictionary."""
        key = (route or UNROUTED, method if method in METHODS else OTHER, status)
        children = self._children.get(key)
        if children is None:
            children = (self.requests.labels(*key), self.request_seconds.labels(*key[:2]))
            self._children[key] = children
        count, duration = children
        count.inc()
        duration.observe(seconds)

    def count_rejection(self, code: str, status: int) -> None:
        """Count a request that was rejected before it was parsed; nothing else is known of it."""
        rejection = self._rejections.get(code)
        if rejection is None:
            rejection = (self.requests.labels(UNROUTED, OTHER, status), self.errors.labels(code))
            self._rejections[code] = rejection
        for counter in rejection:
            counter.inc()

    def register_kinds(self, kinds: Iterable[str]) -> None:
        """Create the series of all kinds at 0, so that Prometheus sees the first failure as an increase."""
        for kind in kinds:
            self.run_seconds.labels(kind)
            for outcome in get_args(Outcome):
                self.runs.labels(kind, outcome)

    @contextmanager
    def run(self, kind: str) -> Iterator[JobRun]:
        """Count and time one job run."""
        run, started_at = JobRun(), monotonic()
        try:
            yield run
        finally:
            self.runs.labels(kind, run.outcome).inc()
            self.run_seconds.labels(kind).observe(monotonic() - started_at)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of all processes that share the directory; gauges show the last sample."""
        if self._shared is None:
            return self._registry.collect()
        return list(MultiProcessCollector(None, self._shared).collect())

    def sample(self) -> None:
        """Read the tracked gauges and the CPU time now."""
        for gauge, read in self._tracked:
            gauge.set(read())
        used = process_time()
        self.cpu.inc(used - self._cpu_seconds)
        self._cpu_seconds = used

    async def _tick(self) -> None:
        while True:
            due = monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.lag.observe(max(0.0, monotonic() - due))
            self.sample()

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"depot_{name}", documentation, labels, registry=self._registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(
            f"depot_{name}", documentation, labels, registry=self._registry, multiprocess_mode="livesum"
        )

    def _histogram(self, name: str, documentation: str, buckets: Any, *labels: str) -> Histogram:
        return Histogram(f"depot_{name}", documentation, labels, buckets=buckets, registry=self._registry)
