"""Orders that wait for their commit."""

from collections.abc import Iterable
from uuid import UUID

from msgspec import Struct

from service.database.batch_key import BatchKey
from service.events.journal import Author
from service.idempotency.replies import Claim
from service.orders.allocation import item_reference
from service.orders.schemas import Order, OrderCreate


class PendingOrder(Struct, frozen=True, eq=False):
    """An order that waits for its commit."""

    order: OrderCreate
    claim: Claim | None
    author: Author


PLACE_ORDER: BatchKey[PendingOrder, Order] = BatchKey("place orders")


def item_references(orders: Iterable[PendingOrder]) -> tuple[list[UUID], list[str]]:
    """Return the item ids and the SKUs in the orders."""
    references = {item_reference(line) for pending in orders for line in pending.order.lines}
    ids = [reference for reference in references if isinstance(reference, UUID)]
    return ids, [reference for reference in references if isinstance(reference, str)]
