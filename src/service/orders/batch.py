"""The rows of a batch of orders, as the columns of one statement."""

from datetime import datetime

from msgspec.structs import astuple
from uuid_utils.compat import uuid7

from service.database.session import Session
from service.events.journal import Author
from service.idempotency.replies import ClaimConflict, StoredReply, creation_reply, reply_arguments
from service.items.schemas import ItemStock
from service.orders import statements
from service.orders.allocation import AllocatedLine, Allocation
from service.orders.pending import PendingOrder
from service.orders.schemas import Line, Order, OrderPlacedEvent
from service.values import format_amount


class OrderBatch:
    """The orders and allocations of one commit."""

    def __init__(self, placed_at: datetime) -> None:
        self.placed_at = placed_at
        self._orders: list[Order] = []
        self._events: list[OrderPlacedEvent] = []
        self._authors: list[Author] = []
        self._replies: list[StoredReply] = []
        self._allocated: list[AllocatedLine] = []

    def add(self, pending: PendingOrder, allocation: Allocation) -> Order:
        """Add an order to the batch, and return it as it will be stored."""
        new = pending.order
        order = Order(
            id=uuid7(),
            status="placed",
            customer_id=new.customer_id,
            reference=new.reference,
            metadata=new.metadata,
            currency=allocation.currency,
            total=format_amount(allocation.total, allocation.currency),
            lines=[_line(allocated) for allocated in allocation.lines],
            version=1,
            created_at=self.placed_at,
            updated_at=self.placed_at,
            fulfilled_at=None,
            cancelled_at=None,
            cancel_reason=None,
        )
        self._orders.append(order)
        event_fields = (*astuple(order), [_remaining_stock(line) for line in allocation.lines])
        self._events.append(OrderPlacedEvent(*event_fields))
        self._authors.append(pending.author)
        self._allocated += allocation.lines
        if pending.claim is not None:
            self._replies.append(creation_reply(pending.claim, order, location(order)))
        return order

    async def write(self, session: Session) -> None:
        """Write the batch in one statement.

        Raises `ClaimConflict` if another process has stored a reply first.
        """
        if self._orders:
            stored = await session.fetchval(
                *statements.PLACE(**self._columns(), **reply_arguments(self._replies))
            )
            if stored < len(self._replies):
                raise ClaimConflict

    def _columns(self) -> dict[str, object]:
        """Return the arguments of `statements.PLACE`, except those of the replies.

        `lines` and `allocated` have the same sequence: each order's lines were made from its allocation.
        """
        orders, allocated = self._orders, self._allocated
        stock = {line.stock.item_id: line.stock for line in allocated}.values()  # each item once
        lines = [(order.id, no, line) for order in orders for no, line in enumerate(order.lines, start=1)]
        return {
            "placed_at": self.placed_at,
            "stock_item_ids": [item.item_id for item in stock],
            "stock_quantities": [item.quantity for item in stock],
            "stock_versions": [item.version for item in stock],
            "placed_events": self._events,
            "order_ids": [order.id for order in orders],
            "customer_ids": [order.customer_id for order in orders],
            "references": [order.reference for order in orders],
            "metadata": [order.metadata for order in orders],
            "currencies": [order.currency for order in orders],
            "totals": [order.total for order in orders],
            "actors": [author.actor for author in self._authors],
            "request_ids": [author.request_id for author in self._authors],
            "line_order_ids": [order_id for order_id, _, _ in lines],
            "line_nos": [no for _, no, _ in lines],
            "line_item_ids": [line.item_id for _, _, line in lines],
            "line_skus": [line.sku for _, _, line in lines],
            "line_names": [line.name for _, _, line in lines],
            "line_quantities": [line.quantity for _, _, line in lines],
            "line_unit_prices": [line.unit_price for _, _, line in lines],
            "line_amounts": [line.amount for _, _, line in lines],
            "line_stock_quantities": [line.remaining for line in allocated],
            "line_stock_versions": [line.version for line in allocated],
            "line_low_stock_ats": [line.stock.low_stock_at for line in allocated],
        }


def location(order: Order) -> str:
    return f"/orders/{order.id}"


def _remaining_stock(allocated: AllocatedLine) -> ItemStock:
    stock = allocated.stock
    return ItemStock(stock.item_id, stock.sku, allocated.remaining, allocated.version)


def _line(allocated: AllocatedLine) -> Line:
    stock = allocated.stock
    return Line(
        item_id=stock.item_id,
        sku=stock.sku,
        name=stock.name,
        quantity=allocated.quantity,
        unit_price=format_amount(stock.unit_price, stock.currency),
        amount=format_amount(allocated.amount, stock.currency),
    )
