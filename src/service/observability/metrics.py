"""Metrics of this process, or of all that share a directory: `depot serve --workers` (decision 0010)."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
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

disable_created_metrics()  # they would double the counters, and are not there with several processes

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
TICK_SECONDS = 1.0
"""How old a gauge of another process may be."""
UNROUTED, OTHER = "unrouted", "other"
ZERO_INITIALIZED_CODES = ("INTERNAL_ERROR", "OVERLOADED", "DATABASE_UNAVAILABLE")
"""Begin at 0: Prometheus would not see the first of them as an increase."""
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
RUN_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
ORDER_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)

Outcome = Literal["succeeded", "failed", "cancelled", "retried", "superseded", "interrupted"]


def use_shared_directory(directory: str, slot: int) -> None:
    """Keep the figures of this process in `directory`, beside those of its siblings.

    Before any instrument is made. Whoever takes a slot over goes on from the counters of its predecessor, so
    nothing is lost with a process, and there are never more files than slots.
    """
    os.environ[DIRECTORY_VARIABLE] = directory
    values.ValueClass = MultiProcessValue(process_identifier=lambda: slot)


class JobRun:
    """A run of a job; what does not say how it ended was interrupted."""

    outcome: Outcome = "interrupted"


class Metrics:
    """The instruments, by name. Labels are of few values: never a path, an id or anything a client chose."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._shared = os.environ.get(DIRECTORY_VARIABLE)
        self._tracked: list[tuple[Gauge, Callable[[], float]]] = []
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._rejections: dict[str, tuple[Counter, Counter]] = {}
        self._cpu_seconds = 0.0

        self.requests = self._counter(
            "http_requests", "Requests by route template, method and status.", "route", "method", "status"
        )
        self.request_seconds = self._histogram(
            "http_request_seconds",
            "From the first byte of a request to its last.",
            DURATION_BUCKETS,
            "route",
            "method",
        )
        self.errors = self._counter("http_errors", "Refusals by code of the error contract.", "code")
        for code in ZERO_INITIALIZED_CODES:
            self.errors.labels(code)
        self.in_flight = self._gauge("http_requests_in_flight", "Requests under way.")
        self.in_flight_limit = self._gauge("http_in_flight_limit", "How many are let in, as of now.")
        self.streams = self._gauge("job_streams_open", "Event streams of jobs under way.")
        self.uploads = self._gauge("uploads_in_flight", "Uploads under way.")
        self.pool = self._gauge(
            "db_pool_connections", "Connections to PostgreSQL, idle and in use.", "pool", "state"
        )
        self.pool_max = self._gauge("db_pool_connections_max", "How many there may be.", "pool")
        self.pool_waiting = self._gauge("db_pool_waiting", "Requests that wait for a connection.")
        self.placement_orders = self._histogram(
            "placement_batch_orders", "Orders settled by one commit.", ORDER_BUCKETS
        )
        self.placement_seconds = self._histogram(
            "placement_flush_seconds", "One commit of orders.", DURATION_BUCKETS
        )
        self.placement_waiting = self._gauge("placement_waiting", "Orders that wait for their commit.")
        self.attempts = self._counter(
            "webhook_attempts",
            "Attempts to deliver: delivered, retried, failed (the last), gone (410).",
            "outcome",
        )
        self.attempt_seconds = self._histogram("webhook_attempt_seconds", "One attempt.", DURATION_BUCKETS)
        self.attempts_in_flight = self._gauge("webhook_attempts_in_flight", "Attempts under way.")
        self.runs = self._counter("job_runs", "Runs of jobs, as they ended.", "kind", "outcome")
        self.run_seconds = self._histogram("job_run_seconds", "One run of a job.", RUN_BUCKETS, "kind")
        self.running = self._gauge("job_runs_in_flight", "Jobs under way in workers.")
        self.lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop wakes what is due, looked at once a second.",
            LAG_BUCKETS,
        )  # fmt: skip
        self.cpu = self._counter("process_cpu_seconds", "CPU time used, without ended child processes.")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Look at what is watched once a second, until the block ends."""
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.wait({ticking})

    def track(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Have a gauge show what a function returns."""
        self._tracked.append((gauge, read))

    def observe_request(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """For every request, so the instruments of a kind of request are looked up in one dictionary."""
        key = (route or UNROUTED, method if method in METHODS else OTHER, status)
        children = self._children.get(key)
        if children is None:
            children = (self.requests.labels(*key), self.request_seconds.labels(*key[:2]))
            self._children[key] = children
        count, duration = children
        count.inc()
        duration.observe(seconds)

    def count_rejection(self, code: str, status: int) -> None:
        """A request that was answered before it was read: nothing else of it is known."""
        rejection = self._rejections.get(code)
        if rejection is None:
            rejection = (self.requests.labels(UNROUTED, OTHER, status), self.errors.labels(code))
            self._rejections[code] = rejection
        for counter in rejection:
            counter.inc()

    def register_kinds(self, kinds: Iterable[str]) -> None:
        """Begin at 0: Prometheus would not see the first failure of a kind as an increase."""
        for kind in kinds:
            self.run_seconds.labels(kind)
            for outcome in get_args(Outcome):
                self.runs.labels(kind, outcome)

    @contextmanager
    def run(self, kind: str) -> Iterator[JobRun]:
        """Around one run of a job."""
        run, begun = JobRun(), monotonic()
        try:
            yield run
        finally:
            self.runs.labels(kind, run.outcome).inc()
            self.run_seconds.labels(kind).observe(monotonic() - begun)

    def collect(self) -> Iterable[Metric]:
        """Of all that share the directory. Gauges are as of the last look at them."""
        if self._shared is None:
            return self._registry.collect()
        return list(MultiProcessCollector(None, self._shared).collect())

    def sample(self) -> None:
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
