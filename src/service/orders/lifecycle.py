"""What becomes of a placed order: it is fulfilled or cancelled, once, whatever races it."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

import asyncpg

from service.database.database import Database
from service.database.servers import Connection
from service.errors import Fault, InvalidState, PreconditionFailed
from service.events.journal import Author
from service.http.idempotency import Claim, StoredReply, raise_stored_outcome, store_reply
from service.http.reply import reply_headers
from service.orders import statements
from service.orders.queries import order_from_row, read_order
from service.orders.schemas import Order
from service.values import encode_json

Source: TypeAlias = "Database | Connection"
Transition = Callable[[Source, UUID, Author, list[int] | None], Awaitable[Order]]


async def cancel_order(source: Source, order_id: UUID, author: Author, versions: list[int] | None) -> Order:
    """Give the pieces back and book the refund. A cancelled order is returned as it is."""
    try:
        row = await source.fetchrow(statements.CANCEL, order_id, versions, author.actor, author.request_id)
    except asyncpg.NumericValueOutOfRangeError:
        raise InvalidState("The stock of an item has no room for the pieces of this order") from None
    if row is not None:
        return order_from_row(row)
    order = await read_order(source, order_id)
    if order.status == "cancelled" and (versions is None or order.version in versions):
        return order
    raise _why_not(order, versions)


async def fulfil_order(source: Source, order_id: UUID, author: Author, versions: list[int] | None) -> Order:
    row = await source.fetchrow(statements.FULFIL, order_id, versions, author.actor, author.request_id)
    if row is not None:
        return order_from_row(row)
    raise _why_not(await read_order(source, order_id), versions)


async def apply_once(
    change: Transition,
    database: Database,
    order_id: UUID,
    author: Author,
    versions: list[int] | None,
    claim: Claim | None,
) -> Order:
    """Either change. Raises `Replay` if the claim was answered before."""
    if claim is None:
        return await change(database, order_id, author, versions)
    async with database.transaction() as connection:
        try:
            async with connection.transaction():  # a savepoint: after an error there is something to look up
                order = await change(connection, order_id, author, versions)
        except Fault:  # that it cannot be done again is no news to whoever did it
            await raise_stored_outcome(connection, claim)
            raise
        await store_reply(
            connection, StoredReply(claim, 200, reply_headers(order.version), encode_json(order))
        )
    return order


def _why_not(order: Order, versions: list[int] | None) -> Fault:
    if versions is not None and order.version not in versions:
        return PreconditionFailed(order.version)
    return InvalidState(f"The order is {order.status}")
