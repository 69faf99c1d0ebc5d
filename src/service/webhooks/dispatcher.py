"""Deliver events to webhooks, triggered by this process's own changes and by polling for the rest.

A claimed delivery belongs to its process until the lease expires, so another process takes over what a killed
one left unfinished. Deliveries per webhook are limited, so that a hanging receiver does not delay others.
"""

import asyncio
import random
from asyncio import Task
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from time import monotonic
from uuid import UUID

import structlog

from service.database.database import Database
from service.database.errors import DATABASE_ERRORS
from service.events.journal import WORKER
from service.observability.metrics import Metrics
from service.settings import Settings
from service.webhooks import statements
from service.webhooks.attempt import AttemptResult, ClaimedDelivery
from service.webhooks.retries import SCHEDULE_SECONDS, retry_delay_seconds
from service.webhooks.sender import Sender

log = structlog.get_logger()

RETRY_DELAY_SECONDS = 0.5
"""The delay until the next try after a database error."""
LEASE_MARGIN_SECONDS = 5.0
"""How long a lease outlasts the attempt timeout, for recording the result."""
SHUTDOWN_GRACE_SECONDS = 2.0
"""How long running attempts may take at shutdown."""
GONE_REASON = "The receiver replied 410 Gone"


class WebhookDispatcher:
    """Delivers events from this process."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        schedule_seconds: Sequence[float] = SCHEDULE_SECONDS,
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._metrics = metrics or Metrics()
        self._metrics.track(self._metrics.attempts_in_flight, lambda: len(self._running))
        self._settings = settings
        self._opened = AsyncExitStack()
        self._sender: Sender | None = None
        self._schedule = schedule_seconds
        self._per_webhook_max = settings.webhook_lane_max
        self._poll_seconds = settings.webhook_poll_seconds
        self._lease_seconds = settings.webhook_timeout_seconds + LEASE_MARGIN_SECONDS
        self._running: dict[ClaimedDelivery, Task[None]] = {}
        self._saturated: set[UUID] = set()
        """The webhooks at their limit, which may have more due deliveries."""
        self._any_enabled = False
        self._closing = False
        self._woken = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """On exit, claim nothing more, give running attempts a moment, then release the rest."""
        self._closing, self._sender = False, None
        async with self._opened:
            running = asyncio.create_task(self._run())
            try:
                yield
            finally:
                self._closing = True
                self._woken.set()
                await self._shut_down(running)

    def wake(self) -> None:
        """Check for due deliveries. This is almost free, especially while no webhook is enabled."""
        if self._any_enabled:
            self._woken.set()

    def enable(self) -> None:
        """Start reacting to `wake`: a webhook is about to be enabled."""
        self._any_enabled = True

    async def _run(self) -> None:
        was_woken = is_failing = False
        while not self._closing:
            self._woken.clear()
            try:
                await self._poll_once(was_woken=was_woken)
                is_failing = False
            except Exception as error:  # the loop must survive any error; due deliveries stay due
                if not is_failing:
                    log.warning("webhook_poll_failed", cause=repr(error))
                is_failing = True
            delay = min(RETRY_DELAY_SECONDS, self._poll_seconds) if is_failing else self._poll_seconds
            was_woken = await self._wait_for_wake(delay)

    async def _wait_for_wake(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._woken.wait()
        return False

    async def _poll_once(self, *, was_woken: bool) -> None:
        """Claim and start due deliveries. Only a poll must check for enabled webhooks: a wake implies one."""
        if not was_woken:
            self._any_enabled = await self._database.fetchval(statements.ANY_ENABLED)
        if self._any_enabled and not self._database.commits.is_blocked:
            sender = self._sender or await self._open_sender()
            for delivery in await self._claim():
                self._running[delivery] = asyncio.create_task(self._deliver(delivery, sender))

    async def _open_sender(self) -> Sender:
        """Create the sender in a thread: reading the certificates of authorities takes 20 ms."""
        sender = await asyncio.to_thread(Sender, self._settings)
        self._sender = await self._opened.enter_async_context(sender.open())
        return self._sender

    async def _claim(self) -> list[ClaimedDelivery]:
        busy = Counter(delivery.webhook_id for delivery in self._running)
        lease = timedelta(seconds=self._lease_seconds)
        limits = (self._per_webhook_max, list(busy), list(busy.values()))
        claimed = [
            ClaimedDelivery(*row) for row in await self._database.fetch(statements.CLAIM, *limits, lease)
        ]
        busy.update(delivery.webhook_id for delivery in claimed)
        self._saturated = {
            webhook_id for webhook_id, running in busy.items() if running >= self._per_webhook_max
        }
        return claimed

    async def _deliver(self, delivery: ClaimedDelivery, sender: Sender) -> None:
        try:
            await self._record(delivery, await sender.send(delivery))
        except Exception:  # its lease expires, and another attempt follows
            log.exception("webhook_attempt_not_recorded", delivery=str(delivery.id))
        finally:
            del self._running[delivery]
            if delivery.webhook_id in self._saturated:
                self._woken.set()

    async def _record(self, delivery: ClaimedDelivery, result: AttemptResult) -> None:
        """Record a result. Raises a `DATABASE_ERRORS` if the database is down for longer than the lease."""
        name, statement, arguments = self._record_statement(delivery, result)
        deadline = monotonic() + self._lease_seconds
        while True:
            try:
                await self._database.fetch(statement, delivery.id, delivery.tries, result.attempt, *arguments)
            except DATABASE_ERRORS:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_DELAY_SECONDS)
            else:
                break
        self._metrics.attempts.labels(name).inc()
        self._metrics.attempt_seconds.observe(result.attempt.ms / 1000)

    def _record_statement(
        self, delivery: ClaimedDelivery, result: AttemptResult
    ) -> tuple[str, str, list[object]]:
        """Return the result's name, the statement that records it, and its other arguments."""
        if result.gone:
            return (
                "gone",
                statements.RECORD_GONE,
                [delivery.webhook_id, GONE_REASON, WORKER.actor, WORKER.request_id],
            )
        if result.delivered:
            return "delivered", statements.RECORD, ["delivered", None]
        chance = random.random()  # noqa: S311  # spreads retries, protects no secret
        delay = retry_delay_seconds(
            delivery.attempts + 1, self._schedule, chance=chance, retry_after=result.retry_after
        )
        if delay is None:
            return "failed", statements.RECORD, ["failed", None]
        return "retried", statements.RECORD, ["pending", timedelta(seconds=delay)]

    async def _shut_down(self, running: "Task[None]") -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_GRACE_SECONDS):
                await running
                while self._running:
                    await asyncio.wait(self._running.values())
        unfinished = dict(self._running)
        for task in unfinished.values():
            task.cancel()
        await asyncio.gather(*unfinished.values(), return_exceptions=True)
        if unfinished:
            await self._release(list(unfinished))

    async def _release(self, deliveries: Sequence[ClaimedDelivery]) -> None:
        ids = [delivery.id for delivery in deliveries]
        tries = [delivery.tries for delivery in deliveries]
        with suppress(*DATABASE_ERRORS):  # otherwise their leases expire
            async with asyncio.timeout(1.0):
                await self._database.fetch(statements.RELEASE, ids, tries)
