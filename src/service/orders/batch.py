"""The rows of a batch of orders, as the columns of one statement."""

from datetime import datetime

from uuid_utils.compat import uuid7

from service.database.session import Session
from service.events.journal import Author
from service.http.idempotency import Claim, ClaimConflict, StoredReply, creation_reply, reply_columns
from service.orders import statements
from service.orders.allocation import AllocatedLine, Allocation
from service.orders.schemas import Line, NewOrder, Order


class OrderBatch:
    """The orders and allocations of one commit."""

    def __init__(self, placed_at: datetime) -> None:
        self.placed_at = placed_at
        self._orders: list[Order] = []
        self._authors: list[Author] = []
        self._replies: list[StoredReply] = []
        self._allocated: list[AllocatedLine] = []

    def add(self, new: NewOrder, allocation: Allocation, claim: Claim | None, author: Author) -> Order:
        """Add an order to the batch, and return it as it will be stored."""
        order = Order(
            id=uuid7(),
            status="placed",
            customer_id=new.customer_id,
            reference=new.reference,
            currency=allocation.currency,
            total=str(allocation.total),
            lines=[_line(allocated) for allocated in allocation.lines],
            version=1,
            created_at=self.placed_at,
        )
        self._orders.append(order)
        self._authors.append(author)
        self._allocated += allocation.lines
        if claim is not None:
            self._replies.append(creation_reply(claim, order, location(order)))
        return order

    async def write(self, session: Session) -> None:
        """Write the batch in one statement.

        Raises `ClaimConflict` if another process has stored a reply first.
        """
        if self._orders:
            stored = await session.fetchval(statements.PLACE, *self._columns())
            if stored < len(self._replies):
                raise ClaimConflict

    def _columns(self) -> list[object]:
        """Return the arguments of `statements.PLACE` in order."""
        orders, allocated = self._orders, self._allocated
        stock = list({line.stock.item_id: line.stock for line in allocated}.values())
        numbered = [(order.id, no, line) for order in orders for no, line in enumerate(order.lines, start=1)]
        return [
            [item.item_id for item in stock],
            [item.quantity for item in stock],
            [item.version for item in stock],
            self.placed_at,
            [order.id for order in orders],
            [order.customer_id for order in orders],
            [order.reference for order in orders],
            [order.currency for order in orders],
            [order.total for order in orders],
            [uuid7() for _ in orders],
            [author.actor for author in self._authors],
            [author.request_id for author in self._authors],
            orders,
            [order_id for order_id, _, _ in numbered],
            [no for _, no, _ in numbered],
            [line.item_id for _, _, line in numbered],
            [line.sku for _, _, line in numbered],
            [line.name for _, _, line in numbered],
            [line.quantity for _, _, line in numbered],
            [line.unit_price for _, _, line in numbered],
            [line.amount for _, _, line in numbered],
            [line.remaining for line in allocated],
            [line.version for line in allocated],
            *reply_columns(self._replies),
        ]


def location(order: Order) -> str:
    return f"/orders/{order.id}"


def _line(allocated: AllocatedLine) -> Line:
    stock = allocated.stock
    return Line(
        item_id=stock.item_id,
        sku=stock.sku,
        name=stock.name,
        quantity=allocated.quantity,
        unit_price=str(stock.unit_price),
        amount=str(allocated.amount),
    )
