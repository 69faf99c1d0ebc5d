"""Orders that wait because another transaction, such as an import, locks their items for long.

In the queue, one such order would block its whole batch, and two such batches would block all orders of this
process.
"""

import asyncio
from asyncio import Future, Task
from contextvars import Context
from time import monotonic
from uuid import UUID

from msgspec import Struct

from service.database.database import Database
from service.errors import Overloaded
from service.orders import statements
from service.orders.allocation import item_reference
from service.orders.pending import PendingOrder, item_references

POLL_INTERVAL_SECONDS = 0.05
"""Orders poll, because waiting for a lock in PostgreSQL would take a connection per order."""
LOCK_WAIT_EXCEEDED = "An item of this order is locked by a long-running operation; retry later"


class Waiter(Struct, eq=False):
    """An order with a locked item. `unlocked` is done when the item is free or the deadline has passed."""

    order: PendingOrder
    deadline: float
    unlocked: "Future[None]"


class DeferredOrders:
    """Orders with locked items: released once unlocked, rejected with `Overloaded` at their deadline."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: list[Waiter] = []
        self._locked_items: set[UUID | str] = set()
        """Ids and SKUs of the items that were locked at the last poll."""
        self._polling: Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiters)

    def must_defer(self, order: PendingOrder) -> bool:
        """Return whether an item of the order was locked at the last poll."""
        return bool(self._locked_items) and any(
            item_reference(line) in self._locked_items for line in order.order.lines
        )

    async def wait(self, order: PendingOrder, deadline: float) -> None:
        """Wait until the order's items are unlocked. `deadline` is a time of `monotonic`."""
        unlocked: Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(Waiter(order, deadline, unlocked))
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll_until_empty(), context=Context())
        await unlocked

    async def _poll_until_empty(self) -> None:
        try:
            while self._waiters:
                await self._poll_locks()
                if self._waiters:
                    await asyncio.sleep(POLL_INTERVAL_SECONDS)
        except Exception as error:  # the waiting orders raise it
            for waiter in self._waiters:
                if not waiter.unlocked.done():
                    waiter.unlocked.set_exception(error)
        finally:
            self._polling, self._waiters, self._locked_items = None, [], set()

    async def _poll_locks(self) -> None:
        polled = [waiter for waiter in self._waiters if not waiter.unlocked.done()]
        references = item_references(waiter.order for waiter in polled)
        rows = await self._database.fetch(statements.SELECT_LOCKED_ITEMS, *references)
        self._locked_items = {reference for row in rows for reference in row}
        now = monotonic()
        for waiter in reversed(polled):  # each joins at the head of the queue, so the oldest must join last
            if waiter.unlocked.done():
                continue
            if waiter.deadline < now:
                waiter.unlocked.set_exception(Overloaded(LOCK_WAIT_EXCEEDED))
            elif not self.must_defer(waiter.order):
                waiter.unlocked.set_result(None)
        self._waiters = [waiter for waiter in self._waiters if not waiter.unlocked.done()]
