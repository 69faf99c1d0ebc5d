"""What becomes of a placed order: it is fulfilled or cancelled, once, whatever races it."""

from uuid import UUID

import asyncpg

from service.db import Database
from service.errors import Fault, InvalidState, PreconditionFailed
from service.events.journal import Author
from service.orders import statements
from service.orders.archive import order_from, read_order
from service.orders.schemas import Order


async def cancel_order(
    database: Database, order_id: UUID, author: Author, *, versions: list[int] | None
) -> Order:
    """Give the pieces back and book the refund. A cancelled order is returned as it is."""
    try:
        row = await database.fetchrow(statements.CANCEL, order_id, versions, author.actor, author.request_id)
    except asyncpg.NumericValueOutOfRangeError:
        raise InvalidState("The stock of an item has no room for the pieces of this order") from None
    if row is not None:
        return order_from(row)
    order = await read_order(database, order_id)
    if order.status == "cancelled" and (versions is None or order.version in versions):
        return order
    raise _why_not(order, versions)


async def fulfil_order(
    database: Database, order_id: UUID, author: Author, *, versions: list[int] | None
) -> Order:
    row = await database.fetchrow(statements.FULFIL, order_id, versions, author.actor, author.request_id)
    if row is not None:
        return order_from(row)
    raise _why_not(await read_order(database, order_id), versions)


def _why_not(order: Order, versions: list[int] | None) -> Fault:
    if versions is not None and order.version not in versions:
        return PreconditionFailed(order.version)
    return InvalidState(f"The order is {order.status}")
