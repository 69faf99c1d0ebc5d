"""Order queries."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from service.database.session import Session
from service.errors import NotFound
from service.orders import statements
from service.orders.schemas import Line, Order


async def read_order(session: Session, order_id: UUID) -> Order:
    """Return the order. Raises `NotFound`."""
    row = await session.fetchrow(statements.READ, order_id)
    if row is None:
        raise NotFound
    return order_from_row(row)


async def list_orders(session: Session, filters: Mapping[str, Any], limit: int) -> list[Order]:
    """Return the orders, newest first. A filter that is None is ignored."""
    provided = {name: value for name, value in filters.items() if value is not None}
    rows = await session.fetch(statements.list_orders(list(provided)), *provided.values(), limit)
    return [order_from_row(row) for row in rows]


def order_from_row(row: asyncpg.Record) -> Order:
    """Build an order from a row of `statements.COLUMNS`."""
    order = Order(*row)
    order.lines = msgspec.convert(order.lines, list[Line])
    return order
