"""Group commit: orders that arrive while a commit is under way share the next one.

An idle service places a single order at once; under load one lock, one statement and one commit serve
up to `batch_max` orders. See docs/decisions/0003-group-commit.md for the reasons and the figures.
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
from service.http.idempotency import Claim, ClaimConflict, stored_outcomes
from service.observability.metrics import Metrics
from service.observability.tracing import NO_TRACER, Tracer
from service.orders import statements
from service.orders.allocation import Stock, allocate, index_stock
from service.orders.batch import OrderBatch
from service.orders.deferred import DeferredOrders
from service.orders.pending import PendingOrder, item_references
from service.orders.schemas import NewOrder, Order
from service.settings import Settings

log = structlog.get_logger()

RETRY_ALONE_ERRORS = (asyncpg.PostgresError, asyncpg.DataError, ValueError, TypeError, ClaimConflict)
"""Failures that one order's data can cause: the others of its batch get their own try."""
CONFLICT_ERRORS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, ClaimConflict)
"""Nothing is wrong with the orders, somebody else was first: worth trying again."""
ATTEMPTS_MAX = 3
CONFLICT_DELAY_SECONDS = 0.05
"""Lets the winner of a deadlock have its lock: without it the loser can be back before, and lose again."""
REPLIES_PER_TURN = 16
"""A reply takes a fifth of a millisecond; whoever asks for something else waits for no more than so many."""
CONNECTION_ERRORS = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)


class PlacementQueue:
    """The queue in front of the orders table of this process; bounded, beyond that `Overloaded`."""

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
        self._waiting: deque[PendingOrder] = deque()
        self._flushes: set[Task[None]] = set()
        self._aside = DeferredOrders(
            database, patience_seconds=settings.statement_timeout_seconds, give_back=self._requeue_first
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """At the end, every order that was accepted into the queue gets its answer."""
        yield
        while under_way := [*self._flushes, *filter(None, [self._aside.looking])]:
            await asyncio.wait(under_way)

    async def place(self, order: NewOrder, claim: Claim | None, author: Author) -> Order:
        """Returns the order once it is committed.

        Raises the `Fault` that refuses it, or `Replay` if the claim was answered before.
        """
        if self._pending_count >= self._queue_max:
            raise Overloaded
        outcome = asyncio.get_running_loop().create_future()
        ticket = PendingOrder(order, claim, author, outcome, self._tracer.current_span())
        if self._aside.concerns(ticket):
            self._aside.put([ticket])
        else:
            self._waiting.append(ticket)
            self._start_flush()
        return await ticket.outcome

    @property
    def _pending_count(self) -> int:
        return len(self._waiting) + len(self._aside)

    def _requeue_first(self, tickets: Sequence[PendingOrder]) -> None:
        """They have waited longer than those who are in the queue now."""
        self._waiting.extendleft(reversed(tickets))
        if tickets:
            self._start_flush()

    def _start_flush(self) -> None:
        if len(self._flushes) < self._flushes_max:
            # in a context of its own: it serves others than the one that happened to begin it
            self._flushes.add(asyncio.create_task(self._flush(), context=Context()))

    async def _flush(self) -> None:
        """Settle what waits, until nothing does.

        Takes itself off the list in the same turn of the event loop in which it saw the queue empty: a
        callback would do so in a later one, and an order placed in between would wait for a flush to come.
        """
        try:
            while self._waiting:
                size = min(self._batch_max, len(self._waiting))
                await self._commit_with_retry([self._waiting.popleft() for _ in range(size)])
        finally:
            self._flushes.discard(asyncio.current_task())

    async def _commit_with_retry(self, batch: list[PendingOrder], tries: int = ATTEMPTS_MAX) -> None:
        """Commit the batch and resolve its tickets; a poisoned order must fail alone."""
        begun = perf_counter()
        try:
            with self._tracer.internal_span(
                "place orders", {"depot.orders": len(batch)}, [t.span for t in batch]
            ):
                outcomes = await self._commit(batch)
        except asyncpg.LockNotAvailableError:
            self._aside.put(batch)
        except Exception as error:  # whatever it is, it is the answer to these orders
            if tries > 1 and isinstance(error, CONFLICT_ERRORS):
                await asyncio.sleep(CONFLICT_DELAY_SECONDS)
                await self._commit_with_retry(batch, tries - 1)
            elif (
                len(batch) > 1
                and isinstance(error, RETRY_ALONE_ERRORS)
                and not isinstance(error, CONNECTION_ERRORS)
            ):
                log.warning("flush failed, trying each order alone", orders=len(batch), cause=repr(error))
                for ticket in batch:
                    await self._commit_with_retry([ticket])
            else:
                _resolve_in_slices([(ticket, error) for ticket in batch])
        else:
            self._metrics.placement_orders.observe(len(batch))
            self._metrics.placement_seconds.observe(perf_counter() - begun)
            _resolve_in_slices(list(outcomes.items()))

    async def _commit(self, batch: Sequence[PendingOrder]) -> dict[PendingOrder, Order | Exception]:
        async with self._database.transaction() as connection:
            # The same claim names the same items: whoever gets their locks second sees the first one's reply.
            rows = await connection.fetch(statements.LOCK_STOCK, *item_references(batch), self._lock_timeout)
            shelf = index_stock(Stock(*row) for row in rows)
            answered = await stored_outcomes(connection, [ticket.claim for ticket in batch if ticket.claim])
            fresh = [ticket for ticket in batch if ticket.claim not in answered]
            orders = [ticket.order for ticket in fresh]
            booking = OrderBatch(datetime.now(UTC))
            outcomes: dict[PendingOrder, Order | Exception] = {
                ticket: made
                if isinstance(made, Fault)
                else booking.add(ticket.order, made, ticket.claim, ticket.author)
                for ticket, made in zip(fresh, allocate(shelf, orders), strict=True)
            }
            await booking.write(connection)
        return outcomes | {ticket: answered[ticket.claim] for ticket in batch if ticket.claim in answered}


def _resolve_in_slices(outcomes: Sequence[tuple[PendingOrder, Order | Exception]]) -> None:
    """Some now, the others in the next turns of the event loop, which sees to its sockets in between."""
    for ticket, outcome in outcomes[:REPLIES_PER_TURN]:
        ticket.resolve(outcome)
    if others := outcomes[REPLIES_PER_TURN:]:
        asyncio.get_running_loop().call_soon(_resolve_in_slices, others)
