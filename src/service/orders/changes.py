"""Changes of an order's reference and metadata."""

from typing import Any
from uuid import UUID

from msgspec import UNSET
from msgspec.structs import astuple, replace

from service.database.session import Session
from service.errors import Detail, NoFields, PreconditionFailed, ValidationFailed
from service.events.journal import Author
from service.http.merge import merge_patch
from service.orders import statements
from service.orders.queries import order_from_row, read_order
from service.orders.schemas import METADATA_BYTES_MAX, Order, OrderPatch
from service.values import size_problem


async def patch_order(
    session: Session,
    order_id: UUID,
    patch: OrderPatch,
    author: Author,
    versions: list[int] | None,
    *,
    merge: bool,
) -> Order:
    """Set the fields that were sent; `merge` merges `metadata` (RFC 7396) instead of replacing it."""
    if all(value is UNSET for value in astuple(patch)):
        raise NoFields
    if not (merge and isinstance(patch.metadata, dict)):
        return await _update(session, order_id, patch, author, versions)
    async with session.transaction():
        stored = await session.fetchval(statements.LOCK_METADATA, order_id)
        merged = replace(patch, metadata=_merged(stored, patch.metadata))
        return await _update(session, order_id, merged, author, versions)


async def _update(
    session: Session, order_id: UUID, patch: OrderPatch, author: Author, versions: list[int] | None
) -> Order:
    row = await session.fetchrow(statements.PATCH, order_id, patch, versions, author.actor, author.request_id)
    if row is None:
        raise PreconditionFailed((await read_order(session, order_id)).version)
    return order_from_row(row)


def _merged(stored: Any, patch: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = merge_patch(stored, patch)
    if problem := size_problem(merged, METADATA_BYTES_MAX):
        raise ValidationFailed([Detail("/metadata", problem)])
    return merged
