"""Delivers events: the one way they leave, woken by what this process does and by a clock for the rest.

A delivery belongs to whoever claimed it until its lease lapses, so what a killed process left is delivered by
another. A webhook has a lane of so many deliveries under way; one that hangs fills its own and no other.
"""

import asyncio
import random
from asyncio import Task
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from service.database.database import DATABASE_ERRORS, Database
from service.events.journal import WORKER
from service.observability.metrics import Metrics
from service.settings import Settings
from service.webhooks import statements
from service.webhooks.attempt import AttemptResult, ClaimedDelivery
from service.webhooks.retries import SCHEDULE_SECONDS, retry_delay_seconds

if TYPE_CHECKING:
    from service.webhooks.sender import Sender

log = structlog.get_logger()

RETRY_DELAY_SECONDS = 0.5
"""How soon the database is asked again after it failed."""
LEASE_MARGIN_SECONDS = 5.0
"""How long a claim outlasts the longest attempt: the time there is to record it."""
SHUTDOWN_GRACE_SECONDS = 2.0
"""How long attempts under way may take to end at shutdown."""
GONE_REASON = "The receiver answered 410 Gone"


class WebhookDispatcher:
    """The deliveries under way in this process."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        schedule_seconds: Sequence[float] = SCHEDULE_SECONDS,
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._metrics = metrics or Metrics()
        self._metrics.track(self._metrics.attempts_in_flight, lambda: len(self._under_way))
        self._settings = settings
        self._opened = AsyncExitStack()
        self._sender: Sender | None = None
        self._schedule = schedule_seconds
        self._concurrency_max = settings.webhook_lane_max
        self._poll_seconds = settings.webhook_poll_seconds
        self._lease_seconds = settings.webhook_timeout_seconds + LEASE_MARGIN_SECONDS
        self._under_way: dict[ClaimedDelivery, Task[None]] = {}
        self._saturated: set[UUID] = set()
        """The webhooks for which there may be more than their lane had places for."""
        self._any_enabled = False
        self._closing = False
        self._woken = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """At the end nothing more is claimed; what is under way gets a moment, and is given back then."""
        self._closing, self._sender = False, None
        async with self._opened:
            rounds = asyncio.create_task(self._run())
            try:
                yield
            finally:
                self._closing = True
                self._woken.set()
                await self._end(rounds)

    def wake(self) -> None:
        """Something may be due. Costs next to nothing, above all while no webhook is enabled."""
        if self._any_enabled:
            self._woken.set()

    def expect(self) -> None:
        """A webhook is about to be enabled: from now on it is worth waking up."""
        self._any_enabled = True

    async def _run(self) -> None:
        polling, away = True, False
        while not self._closing:
            self._woken.clear()
            try:
                await self._poll_once(polling)
                away = False
            except Exception as error:  # this loop outlives whatever it is: what is due stays due
                if not away:
                    log.warning("deliveries wait", cause=repr(error))
                away = True
            pause = min(RETRY_DELAY_SECONDS, self._poll_seconds) if away else self._poll_seconds
            polling = not await self._wait_for_wake(pause)

    async def _wait_for_wake(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._woken.wait()
        return False

    async def _poll_once(self, polling: bool) -> None:
        if polling:
            self._any_enabled = await self._database.fetchval(statements.ANY_ENABLED)
        if self._any_enabled:
            sender = self._sender or await self._open_sender()
            for parcel in await self._claim():
                self._under_way[parcel] = asyncio.create_task(self._deliver(parcel, sender))

    async def _open_sender(self) -> "Sender":
        """Its HTTP client is 160 ms, in which the loop must not stand still, and 7 MiB."""
        sender = (await asyncio.to_thread(_import_sender))(self._settings)
        self._sender = await self._opened.enter_async_context(sender.open())
        return self._sender

    async def _claim(self) -> list[ClaimedDelivery]:
        busy = Counter(parcel.webhook_id for parcel in self._under_way)
        lease = timedelta(seconds=self._lease_seconds)
        lanes = (self._concurrency_max, list(busy), list(busy.values()))
        parcels = [
            ClaimedDelivery(*row) for row in await self._database.fetch(statements.CLAIM, *lanes, lease)
        ]
        busy.update(parcel.webhook_id for parcel in parcels)
        self._saturated = {
            webhook_id for webhook_id, places in busy.items() if places >= self._concurrency_max
        }
        return parcels

    async def _deliver(self, parcel: ClaimedDelivery, sender: "Sender") -> None:
        try:
            await self._record(parcel, await sender.send(parcel))
        except Exception:  # its lease lapses: it is sent again, by whoever comes first
            log.exception("attempt not recorded", delivery=str(parcel.id))
        finally:
            del self._under_way[parcel]
            if parcel.webhook_id in self._saturated:
                self._woken.set()

    async def _record(self, parcel: ClaimedDelivery, outcome: AttemptResult) -> None:
        """Raises one of `DATABASE_ERRORS` if the database is away for longer than the lease."""
        name, statement, arguments = self._record_statement(parcel, outcome)
        deadline = monotonic() + self._lease_seconds
        while True:
            try:
                await self._database.fetch(statement, parcel.id, parcel.tries, outcome.attempt, *arguments)
            except DATABASE_ERRORS:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_DELAY_SECONDS)
            else:
                break
        self._metrics.attempts.labels(name).inc()
        self._metrics.attempt_seconds.observe(outcome.attempt.ms / 1000)

    def _record_statement(
        self, parcel: ClaimedDelivery, outcome: AttemptResult
    ) -> tuple[str, str, list[object]]:
        """What came of an attempt: in a word, the statement that says so, and its other arguments."""
        if outcome.gone:
            return (
                "gone",
                statements.RECORD_GONE,
                [parcel.webhook_id, GONE_REASON, WORKER.actor, WORKER.request_id],
            )
        if outcome.delivered:
            return "delivered", statements.RECORD, ["delivered", None]
        chance = random.random()  # noqa: S311  # spreads retries, keeps no secret
        pause = retry_delay_seconds(
            parcel.attempts + 1, self._schedule, chance=chance, retry_after=outcome.retry_after
        )
        if pause is None:
            return "failed", statements.RECORD, ["failed", None]
        return "retried", statements.RECORD, ["pending", timedelta(seconds=pause)]

    async def _end(self, rounds: "Task[None]") -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_GRACE_SECONDS):
                await rounds
                while self._under_way:
                    await asyncio.wait(self._under_way.values())
        left = dict(self._under_way)
        for task in left.values():
            task.cancel()
        await asyncio.gather(*left.values(), return_exceptions=True)
        if left:
            await self._release(list(left))

    async def _release(self, parcels: Sequence[ClaimedDelivery]) -> None:
        ids, tries = [parcel.id for parcel in parcels], [parcel.tries for parcel in parcels]
        with suppress(*DATABASE_ERRORS):  # then their leases lapse
            async with asyncio.timeout(1.0):
                await self._database.fetch(statements.RELEASE, ids, tries)


def _import_sender() -> "type[Sender]":
    from service.webhooks.sender import Sender  # noqa: PLC0415  # most processes have no webhook to serve

    return Sender
