"""Orders of items that somebody else holds for long, such as an import: they wait apart from all the others.

In the queue they would keep a whole commit waiting, and with two of them all placing of this process.
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

LOOK_SECONDS = 0.05
"""How often to look who is free: to wait for the locks themselves would take a connection for each."""
LOCK_WAIT_EXCEEDED = "An item of this order is held by other work that takes long"


class DeferredOrders:
    """Gives tickets back once nobody holds their items, or answers them `Overloaded` when patience ends."""

    def __init__(
        self,
        database: Database,
        *,
        patience_seconds: float,
        give_back: Callable[[Sequence[PendingOrder]], None],
    ) -> None:
        self._database = database
        self._patience_seconds = patience_seconds
        self._give_back = give_back
        self._tickets: list[PendingOrder] = []
        self._locked_items: set[UUID | str] = set()
        """Ids and SKUs of items, as of the last look."""
        self.looking: Task[None] | None = None

    def __len__(self) -> int:
        return len(self._tickets)

    def concerns(self, ticket: PendingOrder) -> bool:
        return bool(self._locked_items) and any(
            item_reference(line) in self._locked_items for line in ticket.order.lines
        )

    def put(self, tickets: Sequence[PendingOrder]) -> None:
        for ticket in tickets:
            ticket.wait_deadline = ticket.wait_deadline or monotonic() + self._patience_seconds
        self._tickets += tickets
        if self.looking is None:
            self.looking = asyncio.create_task(self._poll_until_empty(), context=Context())

    async def _poll_until_empty(self) -> None:
        try:
            while self._tickets:
                await self._poll_locks()
                if self._tickets:
                    await asyncio.sleep(LOOK_SECONDS)
        except Exception as error:  # whatever it is, it is the answer to these orders
            for ticket in self._tickets:
                ticket.resolve(error)
        finally:
            self.looking, self._tickets, self._locked_items = None, [], set()

    async def _poll_locks(self) -> None:
        asked = self._tickets.copy()
        rows = await self._database.fetch(statements.HELD, *item_references(asked))
        self._locked_items = {name for row in rows for name in row}
        late = {ticket for ticket in asked if (ticket.wait_deadline or 0) < monotonic()}
        free = [ticket for ticket in asked if ticket not in late and not self.concerns(ticket)]
        settled = late.union(free)
        self._tickets = [ticket for ticket in self._tickets if ticket not in settled]
        for ticket in late:
            ticket.resolve(Overloaded(LOCK_WAIT_EXCEEDED))
        self._give_back(free)
