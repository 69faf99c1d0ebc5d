"""Order queries."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from service.database.batch import BatchKind
from service.database.batch_key import BatchKey
from service.database.clock import MAX_CLOCK_SKEW
from service.database.session import Session
from service.errors import NotFound
from service.orders import statements
from service.orders.schemas import Line, Order
from service.times import lowest_uuid7


async def read_orders(session: Session, order_ids: Sequence[UUID]) -> list[Order | Exception]:
    """Return each order, or `NotFound` in its place."""
    rows = await session.fetch(statements.READ, order_ids)
    orders = {order.id: order for order in map(order_from_row, rows)}
    return [orders.get(order_id) or NotFound() for order_id in order_ids]


READ_ORDER: BatchKey[UUID, Order] = BatchKey("read orders")
BATCHES = [BatchKind(READ_ORDER, read_orders)]


async def read_order(session: Session, order_id: UUID) -> Order:
    """Return the order as the session's transaction sees it. Raises `NotFound`."""
    (order,) = await read_orders(session, [order_id])
    if isinstance(order, Exception):
        raise order
    return order


async def list_orders(session: Session, filters: Mapping[str, Any], limit: int) -> list[Order]:
    """Return the orders, newest first. A filter that is None is ignored."""
    return [order_from_row(row) for row in await statements.LIST.fetch(session, filters, limit)]


def period_filters(since: datetime | None, until: datetime | None) -> dict[str, Any]:
    """Return the filters of a period; `until` is exclusive.

    An order's id is a UUIDv7, which contains the time of a process's clock. The bounds on ids allow for clock
    skew, and keep the scan of the primary key within the period.
    """
    return {
        "since": since,
        "since_id": since and lowest_uuid7(since - MAX_CLOCK_SKEW),
        "until": until,
        "until_id": until and lowest_uuid7(until + MAX_CLOCK_SKEW),
    }


def order_from_row(row: asyncpg.Record) -> Order:
    """Build an order from a row of `statements.COLUMNS`."""
    order = Order(*row)
    order.lines = msgspec.convert(order.lines, list[Line])
    return order
