"""Group commit: orders that arrive while a commit is in progress share the next one.

An idle service places a single order immediately; under load one lock, one statement and one commit serve
up to `batch_max` orders. docs/decisions/0003-group-commit.md has the reasons and measurements.
"""

import asyncio
from asyncio import Task
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import UTC, datetime
from time import perf_counter

import asyncpg
import structlog

from service.database.database import Database
from service.errors import Fault, Overloaded
from service.events.journal import Author
from service.idempotency.replies import Claim, ClaimConflict, stored_outcomes
from service.observability.metrics import Metrics
from service.observability.tracing import NO_TRACER, Tracer
from service.orders import statements
from service.orders.allocation import Stock, allocate, index_stock
from service.orders.batch import OrderBatch
from service.orders.deferred import DeferredOrders
from service.orders.pending import PendingOrder, item_references
from service.orders.schemas import Order, OrderCreate
from service.settings import Settings

log = structlog.get_logger()

RETRY_ALONE_ERRORS = (asyncpg.PostgresError, asyncpg.DataError, ValueError, TypeError, ClaimConflict)
"""Errors that one order's data can cause; the batch is then retried order by order."""
CONFLICT_ERRORS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, ClaimConflict)
"""Conflicts with other transactions, which are worth a retry."""
ATTEMPTS_MAX = 3
CONFLICT_DELAY_SECONDS = 0.05
"""Delay after a deadlock, so that the winner takes its lock before the loser retries and loses again."""
REPLIES_PER_TURN = 16
"""Replies per turn of the event loop. Each takes 0.2 ms, and other requests wait for at most this many."""
CONNECTION_ERRORS = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)


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
        self._database = database
        self._metrics = metrics or Metrics()
        self._metrics.track(self._metrics.placement_waiting, lambda: self._pending_count)
        self._tracer = tracer
        self._queue_max = settings.placement_queue_max
        self._batch_max = settings.placement_batch_max
        self._flushes_max = settings.placement_flushes_max
        self._lock_timeout = f"{round(settings.placement_lock_seconds * 1000)}ms"
        self._queue: deque[PendingOrder] = deque()
        self._flushes: set[Task[None]] = set()
        self._deferred = DeferredOrders(
            database, max_wait_seconds=settings.statement_timeout_seconds, requeue=self._requeue_first
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """On exit, wait until every queued order is answered."""
        yield
        while in_progress := [*self._flushes, *filter(None, [self._deferred.polling])]:
            await asyncio.wait(in_progress)

    async def place(self, order: OrderCreate, claim: Claim | None, author: Author) -> Order:
        """Place an order, and return it once it is committed.

        Raises the `Fault` that rejects it, or `Replay` if the claim already has a stored reply.
        """
        if self._pending_count >= self._queue_max:
            raise Overloaded
        outcome = asyncio.get_running_loop().create_future()
        pending = PendingOrder(order, claim, author, outcome, self._tracer.current_span())
        if self._deferred.must_defer(pending):
            self._deferred.defer([pending])
        else:
            self._queue.append(pending)
            self._start_flush()
        return await pending.outcome

    @property
    def _pending_count(self) -> int:
        return len(self._queue) + len(self._deferred)

    def _requeue_first(self, orders: Sequence[PendingOrder]) -> None:
        """Requeue orders at the head: they have waited longest."""
        self._queue.extendleft(reversed(orders))
        if orders:
            self._start_flush()

    def _start_flush(self) -> None:
        if len(self._flushes) < self._flushes_max:
            # in a fresh context: the flush serves other requests than the one that starts it
            self._flushes.add(asyncio.create_task(self._flush(), context=Context()))

    async def _flush(self) -> None:
        """Commit batches until the queue is empty.

        The task removes itself in the turn of the event loop in which it saw the queue empty. A callback
        would run a turn later, and an order that is queued in between would start no flush.
        """
        try:
            while self._queue:
                size = min(self._batch_max, len(self._queue))
                await self._commit_with_retry([self._queue.popleft() for _ in range(size)])
        finally:
            self._flushes.discard(asyncio.current_task())

    async def _commit_with_retry(self, batch: list[PendingOrder], attempts_left: int = ATTEMPTS_MAX) -> None:
        """Commit a batch and resolve its orders. If one order breaks the batch, only that order fails."""
        started_at = perf_counter()
        try:
            with self._tracer.internal_span(
                "place orders", {"depot.orders": len(batch)}, [pending.span for pending in batch]
            ):
                outcomes = await self._commit(batch)
        except asyncpg.LockNotAvailableError:
            self._deferred.defer(batch)
        except Exception as error:  # any error is the result of these orders
            if attempts_left > 1 and isinstance(error, CONFLICT_ERRORS):
                await asyncio.sleep(CONFLICT_DELAY_SECONDS)
                await self._commit_with_retry(batch, attempts_left - 1)
            elif (
                len(batch) > 1
                and isinstance(error, RETRY_ALONE_ERRORS)
                and not isinstance(error, CONNECTION_ERRORS)
            ):
                log.warning("order_batch_failed", orders=len(batch), cause=repr(error))
                for pending in batch:
                    await self._commit_with_retry([pending])
            else:
                _resolve_in_slices([(pending, error) for pending in batch])
        else:
            self._metrics.placement_orders.observe(len(batch))
            self._metrics.placement_seconds.observe(perf_counter() - started_at)
            _resolve_in_slices(list(outcomes.items()))

    async def _commit(self, batch: Sequence[PendingOrder]) -> dict[PendingOrder, Order | Exception]:
        async with self._database.session() as session, session.transaction():
            # Requests with one claim lock the same items, so the second one sees the first one's reply.
            rows = await session.fetch(statements.LOCK_STOCK, *item_references(batch), self._lock_timeout)
            stock = index_stock(Stock(*row) for row in rows)
            replayed = await stored_outcomes(session, [order.claim for order in batch if order.claim])
            fresh = [pending for pending in batch if pending.claim not in replayed]
            allocations = allocate(stock, [pending.order for pending in fresh])
            written = OrderBatch(datetime.now(UTC))
            outcomes: dict[PendingOrder, Order | Exception] = {
                pending: result
                if isinstance(result, Fault)
                else written.add(pending.order, result, pending.claim, pending.author)
                for pending, result in zip(fresh, allocations, strict=True)
            }
            await written.write(session)
        return outcomes | {order: replayed[order.claim] for order in batch if order.claim in replayed}


def _resolve_in_slices(outcomes: Sequence[tuple[PendingOrder, Order | Exception]]) -> None:
    """Resolve orders in slices, one per turn of the event loop, so that sockets are served in between."""
    for pending, outcome in outcomes[:REPLIES_PER_TURN]:
        pending.resolve(outcome)
    if rest := outcomes[REPLIES_PER_TURN:]:
        asyncio.get_running_loop().call_soon(_resolve_in_slices, rest)
