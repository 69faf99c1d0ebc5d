"""Groups of orders, placed at the same time through a queue of their own."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from uuid import UUID

import httpx

from service.database.database import Database
from service.events.journal import CLI
from service.orders.pending import PendingOrder
from service.orders.placement import PlacementQueue
from service.orders.schemas import Order, OrderCreate, OrderLineCreate
from service.settings import Settings
from tests.support.app_helpers import Json


@asynccontextmanager
async def queue(
    database: Database, *, lock_seconds: float = 60, held_seconds: float = 60, **limits: int
) -> AsyncIterator[PlacementQueue]:
    """Open a queue that waits for locked items for a long time by default."""
    named = {f"placement_{name}": value for name, value in limits.items()}
    seconds = {"placement_lock_seconds": lock_seconds, "statement_timeout_seconds": held_seconds}
    placement = PlacementQueue(database, Settings(**seconds, **named))  # type: ignore[arg-type]  # as the names say
    async with placement.open():
        yield placement


def new(item: Json, customer: str = "c-1") -> OrderCreate:
    return OrderCreate(customer_id=customer, lines=[OrderLineCreate(quantity=1, item_id=UUID(item["id"]))])


async def settle(placement: PlacementQueue, orders: Iterable[OrderCreate]) -> list[Order | BaseException]:
    """Place the orders at once. What is placed in one turn of the event loop waits for the same commit."""
    return await asyncio.gather(
        *[placement.join(PendingOrder(order, None, CLI)) for order in orders], return_exceptions=True
    )


def outcomes(replies: Iterable[httpx.Response]) -> Counter[str]:
    """Count the replies: `placed`, or the code of an error."""
    return Counter(
        "placed" if reply.status_code == 201 else reply.headers["X-Error-Code"] for reply in replies
    )


def totals(replies: Iterable[httpx.Response]) -> dict[str, str]:
    """Return the totals of the orders that buyers were told are placed, by id."""
    return {reply.json()["id"]: reply.json()["total"] for reply in replies if reply.status_code == 201}
