"""`depot worker`: run queued jobs, deliver webhooks, and run scheduled maintenance."""

import asyncio
import signal
from asyncio import Event
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from typing import NamedTuple, cast

import asyncpg
import structlog
from pgqueuer.core.sm import SchedulerManager
from pgqueuer.domain.models import Schedule as ScheduleEntry

from service.audit.chain import seal
from service.audit.prune import delete_pruned
from service.blobs import open_blob_store
from service.database.clock import READ_CLOCK, is_skewed, measure_clock_skew
from service.database.database import (
    CLIENT_TIMEOUT_MARGIN_SECONDS,
    READ_SCHEMA_VERSION,
    SCHEMA,
    Database,
)
from service.documents.orphans import sweep_orphans
from service.http.request import decode
from service.job_kinds import build_registry
from service.jobs import maintenance
from service.jobs.driver import ReconnectingDriver
from service.jobs.kinds import KindRegistry
from service.jobs.pgqueuer_adapter import consume, queries
from service.jobs.runner import Runner
from service.observability.metrics import Metrics
from service.observability.tracing import NO_TRACER, Tracer
from service.reports.books import close_books
from service.settings import Settings
from service.webhooks.dispatcher import WebhookDispatcher
from service.webhooks.maintenance import fail_deliveries_of_disabled

log = structlog.get_logger()


RESTART_SECONDS = 1.0
REQUEUE_SECONDS = 2.0
"""How long the worker has for requeuing jobs when it must exit."""


class Schedule(NamedTuple):
    """A scheduled task, run by one worker at a time. `run` returns the number of affected rows."""

    cron: str
    name: str
    run: Callable[[Database, Settings], Awaitable[int]]


SCHEDULES = (
    Schedule("* * * * * */10", "audit.seal", seal),
    Schedule("* * * * *", "jobs.recover", maintenance.requeue_lost_jobs),
    Schedule("* * * * *", "deliveries.fail_of_disabled", fail_deliveries_of_disabled),
    Schedule("6 * * * *", "books.close", close_books),
    Schedule("7 * * * *", "idempotency_keys.sweep", maintenance.sweep_idempotency_keys),
    Schedule("17 * * * *", "deliveries.sweep", maintenance.sweep_deliveries),
    Schedule("27 * * * *", "jobs.sweep", maintenance.sweep_jobs),
    Schedule("37 * * * *", "queue.sweep", maintenance.sweep_queue),
    Schedule("47 * * * *", "audit.delete_pruned", delete_pruned),
    Schedule("47 3 * * *", "documents.sweep", sweep_orphans),
)


async def run_worker(settings: Settings, database: Database, metrics: Metrics, tracer: Tracer) -> None:
    """Run a worker until a signal; a second signal skips the grace period."""
    dispatcher = WebhookDispatcher(database, settings, metrics=metrics)
    worker = Worker(
        settings,
        database,
        build_registry(settings),
        on_job_end=dispatcher.wake,
        metrics=metrics,
        tracer=tracer,
    )
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, worker.stop)
    async with tracer.open(), metrics.open(), dispatcher.open():
        await worker.run()


class Worker:
    """Runs jobs and schedules until it is stopped, also through database outages."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        kinds: KindRegistry,
        *,
        on_job_end: Callable[[], None] = lambda: None,
        schedules: Sequence[Schedule] = SCHEDULES,
        grace_seconds: float | None = None,
        metrics: Metrics | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """`on_job_end` is called after every job.

        `grace_seconds` is the time that running jobs get to finish after `stop`.
        """
        self._settings = settings
        self._database = database
        self._schedules = schedules
        self._grace_seconds = settings.shutdown_timeout_seconds if grace_seconds is None else grace_seconds
        self._runner = Runner(
            database,
            open_blob_store(settings),
            kinds,
            attempts_max=settings.job_attempts_max,
            decode=decode,
            on_job_end=on_job_end,
            metrics=metrics or Metrics(),
            tracer=tracer,
        )
        self._stopping = Event()
        self._forced = Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.run())
        try:
            yield
        finally:
            self.stop()
            await running

    def stop(self) -> None:
        """Stop starting jobs. A second call also stops waiting for running ones."""
        if self._stopping.is_set():
            self._forced.set()
        self._stopping.set()

    async def run(self) -> None:
        """Run until `stop`. Jobs that do not finish in time are requeued for other workers."""
        timeout_seconds = self._settings.statement_timeout_seconds + CLIENT_TIMEOUT_MARGIN_SECONDS
        driver = ReconnectingDriver(self._database, timeout_seconds=timeout_seconds)
        working = asyncio.create_task(self._run_all(driver))
        forced = asyncio.create_task(self._forced.wait())
        try:
            await self._stopping.wait()
            log.info("worker_stopping", jobs=len(self._runner))
            await asyncio.wait(
                {working, forced}, timeout=self._grace_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            self._runner.interrupt()
            await asyncio.wait({working}, timeout=REQUEUE_SECONDS)
        finally:
            driver.close()
            for task in (working, forced):
                task.cancel()
            await asyncio.wait({working, forced})
        log.info("worker_stopped")

    async def _run_all(self, driver: ReconnectingDriver) -> None:
        await self._supervise(self._wait_for_schema, driver)
        await asyncio.gather(
            self._supervise(self._run_jobs, driver), self._supervise(self._run_schedules, driver)
        )

    async def _supervise(
        self, part: Callable[[ReconnectingDriver], Awaitable[None]], driver: ReconnectingDriver
    ) -> None:
        """Run a task to completion, and restart it if it fails."""
        while not self._stopping.is_set():
            try:
                return await part(driver)
            except Exception:
                log.exception("unhandled_error")
            await self._pause()
        return None

    async def _wait_for_schema(self, driver: ReconnectingDriver) -> None:
        await _check_clock(driver)
        version = await _schema(driver)
        if version < SCHEMA:
            log.warning("schema_outdated", found=version, needed=SCHEMA, action="run depot migrate")
        while version < SCHEMA and not self._stopping.is_set():
            await self._pause()
            version = await _schema(driver)

    async def _run_jobs(self, driver: ReconnectingDriver) -> None:
        await maintenance.requeue_lost_jobs(self._database, self._settings)
        log.info("worker_started", concurrency=self._settings.worker_concurrency)
        await consume(
            driver,
            self._runner.execute,
            concurrency=self._settings.worker_concurrency,
            heartbeat_seconds=self._settings.job_heartbeat_seconds,
            stopping=self._stopping,
        )

    async def _run_schedules(self, driver: ReconnectingDriver) -> None:
        manager = SchedulerManager(queries(driver))
        manager.shutdown = self._stopping
        for schedule in self._schedules:
            manager.schedule(schedule.name, schedule.cron)(partial(self._run_schedule, schedule))
        await manager.run()

    async def _run_schedule(self, schedule: Schedule, _: ScheduleEntry) -> None:
        if count := await schedule.run(self._database, self._settings):
            log.info("schedule_ran", schedule=schedule.name, count=count)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), RESTART_SECONDS)


async def _check_clock(driver: ReconnectingDriver) -> None:
    async def read_clock() -> datetime:
        (row,) = await driver.fetch(READ_CLOCK)
        return cast("datetime", row["time"])

    skew = await measure_clock_skew(read_clock)
    if is_skewed(skew):
        log.warning("clock_skewed", clock_skew_seconds=skew)


async def _schema(driver: ReconnectingDriver) -> str:
    try:
        (row,) = await driver.fetch(READ_SCHEMA_VERSION)
    except asyncpg.UndefinedTableError:
        return ""
    return str(row["version_num"] or "")
