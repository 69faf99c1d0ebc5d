"""An order on its way to a commit."""

from asyncio import Future
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from msgspec import Struct

from service.events.journal import Author
from service.http.idempotency import Claim
from service.orders.allocation import item_reference
from service.orders.schemas import NewOrder, Order


class PendingOrder(Struct, eq=False):
    """An order waiting for its commit."""

    order: NewOrder
    claim: Claim | None
    author: Author
    outcome: "Future[Order]"
    span: Any
    """Of its request, in a trace."""
    wait_deadline: float | None = None
    """If an item of it was held by somebody else: when that has lasted too long."""

    def resolve(self, outcome: Order | BaseException) -> None:
        if self.outcome.done():
            return  # whoever asked has been cancelled; the order stands all the same
        if isinstance(outcome, Order):
            self.outcome.set_result(outcome)
        else:
            self.outcome.set_exception(outcome)


def item_references(tickets: Iterable[PendingOrder]) -> tuple[list[UUID], list[str]]:
    """The ids and the SKUs by which the orders name their items."""
    given = {item_reference(line) for ticket in tickets for line in ticket.order.lines}
    ids = [name for name in given if isinstance(name, UUID)]
    return ids, [name for name in given if isinstance(name, str)]
