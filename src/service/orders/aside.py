"""Orders of items that somebody else holds for long, such as an import: they wait apart from all the others.

In the queue they would keep a whole commit waiting, and with two of them all placing of this process.
"""

import asyncio
from asyncio import Task
from collections.abc import Callable, Sequence
from contextvars import Context
from time import monotonic
from uuid import UUID

from service.db import Database
from service.errors import Overloaded
from service.orders import statements
from service.orders.allocation import named
from service.orders.ticket import Ticket, names

LOOK_SECONDS = 0.05
"""How often to look who is free: to wait for the locks themselves would take a connection for each."""
TOO_LONG = "An item of this order is held by other work that takes long"


class Aside:
    """Gives tickets back once nobody holds their items, or answers them `Overloaded` when patience ends."""

    def __init__(
        self, database: Database, *, patience_seconds: float, give_back: Callable[[Sequence[Ticket]], None]
    ) -> None:
        self._database = database
        self._patience_seconds = patience_seconds
        self._give_back = give_back
        self._tickets: list[Ticket] = []
        self._held: set[UUID | str] = set()
        """Ids and SKUs of items, as of the last look."""
        self.looking: Task[None] | None = None

    def __len__(self) -> int:
        return len(self._tickets)

    def concerns(self, ticket: Ticket) -> bool:
        return bool(self._held) and any(named(line) in self._held for line in ticket.order.lines)

    def put(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            ticket.patient_until = ticket.patient_until or monotonic() + self._patience_seconds
        self._tickets += tickets
        if self.looking is None:
            self.looking = asyncio.create_task(self._look_until_empty(), context=Context())

    async def _look_until_empty(self) -> None:
        try:
            while self._tickets:
                await self._look()
                if self._tickets:
                    await asyncio.sleep(LOOK_SECONDS)
        except Exception as error:  # whatever it is, it is the answer to these orders
            for ticket in self._tickets:
                ticket.resolve(error)
        finally:
            self.looking, self._tickets, self._held = None, [], set()

    async def _look(self) -> None:
        asked = self._tickets.copy()
        rows = await self._database.fetch(statements.HELD, *names(asked))
        self._held = {name for row in rows for name in row}
        late = {ticket for ticket in asked if (ticket.patient_until or 0) < monotonic()}
        free = [ticket for ticket in asked if ticket not in late and not self.concerns(ticket)]
        settled = late.union(free)
        self._tickets = [ticket for ticket in self._tickets if ticket not in settled]
        for ticket in late:
            ticket.resolve(Overloaded(TOO_LONG))
        self._give_back(free)
