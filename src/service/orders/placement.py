"""Group commit: orders that arrive while a commit is under way share the next one.

An idle service places a single order at once; under load one lock, one statement and one commit serve
up to `batch_max` orders. See docs/decisions/0003-group-commit.md for the reasons and the figures.
"""

import asyncio
from asyncio import Future, Task
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import UTC, datetime
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from msgspec import Struct

from service.db import Database
from service.errors import Fault, Overloaded
from service.events.journal import Author
from service.hosts import Connection
from service.http.idempotency import Claim, Taken, answers
from service.orders import statements
from service.orders.allocation import Shelf, Stock, allocate, named, shelve
from service.orders.booking import Booking
from service.orders.schemas import NewOrder, Order
from service.telemetry.meters import Meters
from service.telemetry.traces import OFF, Traces

log = structlog.get_logger()

ALONE = (asyncpg.PostgresError, asyncpg.DataError, ValueError, TypeError, Taken)
"""Failures that one order's data can cause: the others of its batch get their own try."""
LOST = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, Taken)
"""Nothing is wrong with the orders, somebody else was first: worth trying again."""
TRIES = 3
PAUSE_SECONDS = 0.05
"""Lets the winner of a deadlock have its lock: without it the loser can be back before, and lose again."""
GONE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)


class Ticket(Struct, eq=False):
    """An order waiting for its commit."""

    order: NewOrder
    claim: Claim | None
    author: Author
    outcome: "Future[Order]"
    span: Any
    """Of its request, in a trace."""


class Placement:
    """The queue in front of the orders table of this process; bounded, beyond that `Overloaded`."""

    def __init__(
        self,
        database: Database,
        *,
        queue_max: int,
        batch_max: int,
        flushes_max: int,
        meters: Meters | None = None,
        traces: Traces = OFF,
    ) -> None:
        self._database = database
        self._meters = meters or Meters()
        self._meters.watch(self._meters.placement_waiting, lambda: len(self._waiting))
        self._traces = traces
        self._queue_max = queue_max
        self._batch_max = batch_max
        self._flushes_max = flushes_max
        self._waiting: deque[Ticket] = deque()
        self._flushes: set[Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """At the end, every order that was accepted into the queue gets its answer."""
        yield
        while self._flushes:
            await asyncio.wait(self._flushes)

    async def place(self, order: NewOrder, claim: Claim | None, author: Author) -> Order:
        """Returns the order once it is committed.

        Raises the `Fault` that refuses it, or `Replay` if the claim was answered before.
        """
        if len(self._waiting) >= self._queue_max:
            raise Overloaded
        outcome = asyncio.get_running_loop().create_future()
        ticket = Ticket(order, claim, author, outcome, self._traces.here())
        self._waiting.append(ticket)
        if len(self._flushes) < self._flushes_max:
            # in a context of its own: it serves others than the one that happened to begin it
            self._flushes.add(asyncio.create_task(self._flush(), context=Context()))
        return await ticket.outcome

    async def _flush(self) -> None:
        """Settle what waits, until nothing does.

        Takes itself off the list in the same turn of the event loop in which it saw the queue empty: a
        callback would do so in a later one, and an order placed in between would wait for a flush to come.
        """
        try:
            while self._waiting:
                size = min(self._batch_max, len(self._waiting))
                await self._settle([self._waiting.popleft() for _ in range(size)])
        finally:
            self._flushes.discard(asyncio.current_task())

    async def _settle(self, batch: list[Ticket], tries: int = TRIES) -> None:
        """Commit the batch and resolve its tickets; a poisoned order must fail alone."""
        begun = perf_counter()
        try:
            with self._traces.work("place orders", {"depot.orders": len(batch)}, [t.span for t in batch]):
                outcomes = await self._commit(batch)
        except Exception as error:  # whatever it is, it is the answer to these orders
            if tries > 1 and isinstance(error, LOST):
                await asyncio.sleep(PAUSE_SECONDS)
                await self._settle(batch, tries - 1)
            elif len(batch) > 1 and isinstance(error, ALONE) and not isinstance(error, GONE):
                log.warning("flush failed, trying each order alone", orders=len(batch), cause=repr(error))
                for ticket in batch:
                    await self._settle([ticket])
            else:
                for ticket in batch:
                    _resolve(ticket, error)
        else:
            self._meters.placement_orders.observe(len(batch))
            self._meters.placement_seconds.observe(perf_counter() - begun)
            for ticket, outcome in outcomes.items():
                _resolve(ticket, outcome)

    async def _commit(self, batch: Sequence[Ticket]) -> dict[Ticket, Order | Exception]:
        async with self._database.transaction() as connection:
            # The same claim names the same items: whoever gets their locks second sees the first one's reply.
            shelf = await _lock(connection, [ticket.order for ticket in batch])
            answered = await answers(connection, [ticket.claim for ticket in batch if ticket.claim])
            fresh = [ticket for ticket in batch if ticket.claim not in answered]
            orders = [ticket.order for ticket in fresh]
            booking = Booking(datetime.now(UTC))
            outcomes: dict[Ticket, Order | Exception] = {
                ticket: made
                if isinstance(made, Fault)
                else booking.add(ticket.order, made, ticket.claim, ticket.author)
                for ticket, made in zip(fresh, allocate(shelf, orders), strict=True)
            }
            await booking.write(connection)
        return outcomes | {ticket: answered[ticket.claim] for ticket in batch if ticket.claim in answered}


async def _lock(connection: Connection, orders: Sequence[NewOrder]) -> Shelf:
    names = {named(line) for order in orders for line in order.lines}
    ids = [name for name in names if isinstance(name, UUID)]
    skus = [name for name in names if isinstance(name, str)]
    rows = await connection.fetch(statements.LOCK_STOCK, ids, skus)
    return shelve(Stock(*row) for row in rows)


def _resolve(ticket: Ticket, outcome: Order | BaseException) -> None:
    if ticket.outcome.done():
        return  # whoever asked has been cancelled; the order stands all the same
    if isinstance(outcome, Order):
        ticket.outcome.set_result(outcome)
    else:
        ticket.outcome.set_exception(outcome)
