"""Orders that wait for their commit."""

from asyncio import Future
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from msgspec import Struct

from service.events.journal import Author
from service.idempotency.replies import Claim
from service.orders.allocation import item_reference
from service.orders.schemas import Order, OrderCreate


class PendingOrder(Struct, eq=False):
    """An order waiting for its commit."""

    order: OrderCreate
    claim: Claim | None
    author: Author
    outcome: "Future[Order]"
    span: Any
    """The span of the request."""
    wait_deadline: float | None = None
    """The latest time for a locked item to be unlocked, once the order had to wait for one."""

    def resolve(self, outcome: Order | BaseException) -> None:
        """Hand the outcome to the request that waits for it."""
        if self.outcome.done():
            return  # the request was cancelled; the order is placed anyway
        if isinstance(outcome, Order):
            self.outcome.set_result(outcome)
        else:
            self.outcome.set_exception(outcome)


def item_references(orders: Iterable[PendingOrder]) -> tuple[list[UUID], list[str]]:
    """Return the item ids and the SKUs in the orders."""
    references = {item_reference(line) for pending in orders for line in pending.order.lines}
    ids = [reference for reference in references if isinstance(reference, UUID)]
    return ids, [reference for reference in references if isinstance(reference, str)]
