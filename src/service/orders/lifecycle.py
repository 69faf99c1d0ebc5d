"""Order transitions: an order is fulfilled or cancelled once, even under concurrent requests."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg

from service.database.commits import CONFIRM_COMMITS
from service.database.session import Session
from service.errors import Fault, InvalidState, PreconditionFailed
from service.events.journal import Author
from service.idempotency.replies import Claim, prefer_stored_outcome, store_reply
from service.orders import statements
from service.orders.queries import order_from_row, read_order
from service.orders.schemas import Order
from service.values import reply_headers

RESTOCK_EXCEEDS_MAX = "The order cannot be cancelled: an item's stock would exceed 2147483647"

Transition = Callable[[Session, UUID, Author, list[int] | None], Awaitable[Order]]


async def cancel_order(
    session: Session,
    order_id: UUID,
    author: Author,
    versions: list[int] | None,
    *,
    reason: str | None = None,
) -> Order:
    """Restock the order's items and record the refund. A cancelled order is returned unchanged."""
    arguments = (order_id, versions, author.actor, author.request_id, reason)
    try:
        row = await session.fetchrow(statements.CANCEL, *arguments)
    except asyncpg.NumericValueOutOfRangeError:
        raise InvalidState(RESTOCK_EXCEEDS_MAX, "placed") from None
    if row is not None:
        return order_from_row(row)
    order = await read_order(session, order_id)
    if order.status == "cancelled" and (versions is None or order.version in versions):
        await session.join(CONFIRM_COMMITS, None)  # the commit that cancelled it may have been interrupted
        return order
    raise _rejection(order, versions)


async def fulfil_order(session: Session, order_id: UUID, author: Author, versions: list[int] | None) -> Order:
    """Mark the order as fulfilled."""
    row = await session.fetchrow(statements.FULFIL, order_id, versions, author.actor, author.request_id)
    if row is not None:
        return order_from_row(row)
    raise _rejection(await read_order(session, order_id), versions)


async def apply_once(
    transition: Transition,
    session: Session,
    order_id: UUID,
    author: Author,
    versions: list[int] | None,
    claim: Claim | None,
) -> Order:
    """Apply a transition once per claim. Raises `Replay` if the claim already has a stored reply."""
    if claim is None:
        return await transition(session, order_id, author, versions)
    async with session.transaction():
        # The inner transaction is a savepoint, so that a stored reply can be read after an error.
        async with prefer_stored_outcome(session, claim), session.transaction():
            order = await transition(session, order_id, author, versions)
        await store_reply(session, claim, 200, order, reply_headers(order.version))
    return order


def _rejection(order: Order, versions: list[int] | None) -> Fault:
    if versions is not None and order.version not in versions:
        return PreconditionFailed(order.version)
    return InvalidState(f"The order is {order.status}", order.status)
