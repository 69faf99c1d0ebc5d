"""Group commit: orders that arrive while a commit is in progress share the next one.

An idle service places a single order immediately; under load one lock, one statement and one commit serve up
to `DEPOT_PLACEMENT_BATCH_MAX` orders. docs/decisions/0003-group-commit.md has the reasons and measurements.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from time import monotonic

import asyncpg

from service.database.batch import Batcher, BatchKind
from service.database.database import Database
from service.database.session import Session
from service.errors import Fault, Overloaded
from service.idempotency.replies import ClaimConflict, stored_outcomes
from service.observability.metrics import Metrics
from service.observability.tracing import NO_TRACER, Tracer
from service.orders import statements
from service.orders.allocation import Stock, allocate, index_stock
from service.orders.batch import OrderBatch
from service.orders.deferred import DeferredOrders
from service.orders.pending import PLACE_ORDER, PendingOrder, item_references
from service.orders.schemas import Order
from service.settings import Settings

CONFLICT_ERRORS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, ClaimConflict)
"""Conflicts with other transactions, which are worth a retry."""
ATTEMPTS_MAX = 3
CONFLICT_DELAY_SECONDS = 0.05
"""Delay after a deadlock, so that the winner takes its lock before the loser retries and loses again."""


class PlacementQueue:
    """This process's bounded queue of orders; beyond the bound they are rejected with `Overloaded`."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        metrics: Metrics | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._metrics.track(self._metrics.placement_waiting, lambda: len(self))
        self._queue_max = settings.placement_queue_max
        self._lock_timeout = f"{round(settings.placement_lock_seconds * 1000)}ms"
        self._lock_wait_seconds = settings.statement_timeout_seconds
        self._deferred = DeferredOrders(database)
        self._batcher = Batcher(
            BatchKind(
                PLACE_ORDER,
                self._commit_with_retry,
                size_max=settings.placement_batch_max,
                concurrency_max=settings.placement_flushes_max,
                queue_max=settings.placement_queue_max,
            ),
            database.session,
            tracer=tracer,
            observe=self._observe,
        )
        self._joined = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Return the number of orders that wait for their commit or for a locked item."""
        return len(self._batcher) + len(self._deferred)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Accept orders. On exit, wait until each of them has its outcome."""
        yield
        await self._idle.wait()

    async def join(self, pending: PendingOrder) -> Order:
        """Place an order, and return it once it is committed.

        Raises the `Fault` that rejects it, or `Replay` if the claim already has a stored reply.
        """
        if len(self) >= self._queue_max:
            raise Overloaded
        self._joined += 1
        self._idle.clear()
        try:
            return await self._place(pending)
        finally:
            self._joined -= 1
            if not self._joined:
                self._idle.set()

    async def _place(self, pending: PendingOrder) -> Order:
        """Join a batch. If an item is locked, wait for it, and then join at the head of the queue.

        A batch raises `LockNotAvailableError` if it cannot lock an item in time.
        """
        if not self._deferred.must_defer(pending):
            with suppress(asyncpg.LockNotAvailableError):
                return await self._batcher.join(pending)
        deadline = monotonic() + self._lock_wait_seconds
        while True:
            await self._deferred.wait(pending, deadline)
            with suppress(asyncpg.LockNotAvailableError):
                return await self._batcher.join(pending, first=True)

    async def _commit_with_retry(
        self, session: Session, batch: Sequence[PendingOrder], attempts_left: int = ATTEMPTS_MAX
    ) -> Sequence[Order | Exception]:
        """Return the outcome of each order. If an item cannot be locked in time, all get that error."""
        try:
            return await self._commit(session, batch)
        except asyncpg.LockNotAvailableError as error:
            return [error] * len(batch)
        except CONFLICT_ERRORS:
            if attempts_left == 1:
                raise
        await asyncio.sleep(CONFLICT_DELAY_SECONDS)
        return await self._commit_with_retry(session, batch, attempts_left - 1)

    async def _commit(self, session: Session, batch: Sequence[PendingOrder]) -> list[Order | Exception]:
        """Lock and allocate the stock, and write the orders. Return each order, or its error."""
        async with session.transaction():
            # Requests with the same claim lock the same items, so the second one sees the first one's reply.
            rows = await session.fetch(statements.LOCK_STOCK, *item_references(batch), self._lock_timeout)
            stock = index_stock(Stock(*row[:-1]) for row in rows)  # the last column is the time
            # The database's time: the reports rely on it, and the clocks of processes differ.
            placed_at = rows[0]["locked_at"] if rows else datetime.now(UTC)
            replayed = await stored_outcomes(session, [pending.claim for pending in batch if pending.claim])
            fresh = [pending for pending in batch if pending.claim not in replayed]
            allocations = allocate(stock, [pending.order for pending in fresh])
            placed = OrderBatch(placed_at)
            outcomes = {
                pending: result if isinstance(result, Fault) else placed.add(pending, result)
                for pending, result in zip(fresh, allocations, strict=True)
            }
            await placed.write(session)
        return [replayed.get(pending.claim) or outcomes[pending] for pending in batch]

    def _observe(self, orders: int, seconds: float) -> None:
        self._metrics.placement_orders.observe(orders)
        self._metrics.placement_seconds.observe(seconds)
