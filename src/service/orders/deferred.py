"""Orders that wait because another transaction, such as an import, holds their items for long.

In the queue, one such order would block a whole commit, and two such commits all placement in this process.
"""

import asyncio
from asyncio import Task
from collections.abc import Callable, Sequence
from contextvars import Context
from time import monotonic
from uuid import UUID

from service.database.database import Database
from service.errors import Overloaded
from service.orders import statements
from service.orders.allocation import item_reference
from service.orders.pending import PendingOrder, item_references

POLL_INTERVAL_SECONDS = 0.05
"""Waiting for the locks themselves would take a connection per order."""
LOCK_WAIT_EXCEEDED = "An item of this order is locked by a long-running operation; retry later"


class DeferredOrders:
    """Orders with locked items: requeued once unlocked, rejected with `Overloaded` after the maximum wait."""

    def __init__(
        self,
        database: Database,
        *,
        max_wait_seconds: float,
        requeue: Callable[[Sequence[PendingOrder]], None],
    ) -> None:
        self._database = database
        self._max_wait_seconds = max_wait_seconds
        self._requeue = requeue
        self._orders: list[PendingOrder] = []
        self._locked_items: set[UUID | str] = set()
        """Ids and SKUs of the items that were locked at the last poll."""
        self.polling: Task[None] | None = None

    def __len__(self) -> int:
        return len(self._orders)

    def must_defer(self, pending: PendingOrder) -> bool:
        """Return whether an item of the order was locked at the last poll."""
        return bool(self._locked_items) and any(
            item_reference(line) in self._locked_items for line in pending.order.lines
        )

    def defer(self, orders: Sequence[PendingOrder]) -> None:
        """Take the orders until their items are unlocked."""
        for pending in orders:
            pending.wait_deadline = pending.wait_deadline or monotonic() + self._max_wait_seconds
        self._orders += orders
        if self.polling is None:
            self.polling = asyncio.create_task(self._poll_until_empty(), context=Context())

    async def _poll_until_empty(self) -> None:
        try:
            while self._orders:
                await self._poll_locks()
                if self._orders:
                    await asyncio.sleep(POLL_INTERVAL_SECONDS)
        except Exception as error:  # any error is the result of these orders
            for pending in self._orders:
                pending.resolve(error)
        finally:
            self.polling, self._orders, self._locked_items = None, [], set()

    async def _poll_locks(self) -> None:
        polled = self._orders.copy()
        rows = await self._database.fetch(statements.SELECT_LOCKED_ITEMS, *item_references(polled))
        self._locked_items = {reference for row in rows for reference in row}
        late = {pending for pending in polled if (pending.wait_deadline or 0) < monotonic()}
        unlocked = [pending for pending in polled if pending not in late and not self.must_defer(pending)]
        done = late.union(unlocked)
        self._orders = [pending for pending in self._orders if pending not in done]
        for pending in late:
            pending.resolve(Overloaded(LOCK_WAIT_EXCEEDED))
        self._requeue(unlocked)
