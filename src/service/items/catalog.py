"""Item operations. Each takes one round trip, and one more to explain a rejection."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unicodedata import normalize
from uuid import UUID

from msgspec import UNSET
from msgspec.structs import asdict, astuple, replace
from uuid_utils.compat import uuid7

from service.database.session import Session
from service.errors import Detail, Fault, InUse, NoFields, NotFound, PreconditionFailed, ValidationFailed
from service.events.journal import Author
from service.http.merge import merge_patch
from service.idempotency.replies import (
    Claim,
    creation_reply,
    execute_once,
    raise_claim_conflict,
    reply_arguments,
)
from service.items import statements
from service.items.schemas import (
    QUANTITY_MAX,
    Item,
    ItemCreate,
    ItemPatch,
    Movement,
    StockChange,
    attributes_problem,
)


class DuplicateSku(Fault):
    status, code, message = 409, "DUPLICATE_SKU", "Another item already has this SKU"


class InsufficientStock(Fault):
    status, code, message = 409, "INSUFFICIENT_STOCK", "Not enough stock"
    example_details = (
        {
            "item_id": "01a221da-02e2-72d1-9bdd-dcc49716d1b3",
            "sku": "BOLT-M8",
            "requested": 4,
            "available": 3,
        },
    )


FAULT_BY_CONSTRAINT = {"uq_items_sku": DuplicateSku, "fk_order_lines_item_id_items": InUse}
"""Errors by the name of the violated constraint."""


async def create_item(session: Session, new: ItemCreate, claim: Claim | None, author: Author) -> Item:
    """Create an item and return it. Raises `Replay` if the claim already has a stored reply."""
    item = _item(new)
    replies = [] if claim is None else [creation_reply(claim, item, location(item))]
    fields = {name: getattr(item, name) for name in statements.CREATED_FIELDS}
    arguments = statements.CREATE(**fields, **reply_arguments(replies), **asdict(author), item=item)
    created = await session.fetchval(*arguments)
    if claim is not None and not created:
        await raise_claim_conflict(session, claim)
    return item


def location(item: Item) -> str:
    return f"/items/{item.id}"


async def read_item(session: Session, item_id: UUID) -> Item:
    row = await session.fetchrow(statements.READ, item_id)
    if row is None:
        raise NotFound
    return Item(*row)


async def patch_item(
    session: Session,
    item_id: UUID,
    patch: ItemPatch,
    author: Author,
    *,
    versions: list[int] | None,
    merge: bool,
) -> Item:
    """Set the fields that were sent; `merge` merges `attributes` (RFC 7396) instead of replacing them."""
    if all(value is UNSET for value in astuple(patch)):
        raise NoFields
    async with session.transaction() if merge else nullcontext():
        if merge and isinstance(patch.attributes, dict):
            stored = await session.fetchval(statements.LOCK_ATTRIBUTES, item_id)
            patch = replace(patch, attributes=_merged(stored, patch.attributes))
        row = await session.fetchrow(
            statements.PATCH, item_id, patch, versions, author.actor, author.request_id
        )
    if row is None:
        raise await _rejection(session, item_id, versions)
    return Item(*row)


async def adjust_stock(
    session: Session, item_id: UUID, change: StockChange, author: Author, *, versions: list[int] | None
) -> Item:
    row = await session.fetchrow(*statements.ADJUST(**_adjustment(item_id, change, author, versions)))
    if row is None:
        raise await _rejection(session, item_id, versions, change.delta)
    return Item(*row)


async def adjust_stock_idempotently(
    session: Session,
    item_id: UUID,
    change: StockChange,
    author: Author,
    claim: Claim,
    *,
    versions: list[int] | None,
) -> tuple[int, bytes]:
    """Return the item's version and the reply's body.

    Raises `Replay` if the claim already has a stored reply.
    """
    arguments = _adjustment(item_id, change, author, versions)
    row = await execute_once(session, claim, statements.ADJUST_IDEMPOTENTLY, **arguments)
    if row is None:
        raise await _rejection(session, item_id, versions, change.delta)
    return row["version"], row["body"]


def _adjustment(
    item_id: UUID, change: StockChange, author: Author, versions: list[int] | None
) -> dict[str, Any]:
    return {"item_id": item_id, "versions": versions, **asdict(change), **asdict(author)}


async def delete_item(session: Session, item_id: UUID, author: Author, *, versions: list[int] | None) -> None:
    deleted = await session.fetchval(statements.DELETE, item_id, versions, author.actor, author.request_id)
    if deleted is None:
        raise await _rejection(session, item_id, versions)


def search_filter(text: str | None) -> dict[str, str]:
    """Return the filter for a part of a name or SKU, with composed letters (NFC) as in the index."""
    composed = normalize("NFC", text or "")
    if not composed:
        return {}
    return {"q" if len(composed) > 1 else "q_single_letter": composed}


async def list_items(session: Session, filters: Mapping[str, Any], limit: int) -> list[Item]:
    """Return items, newest first. A filter that is None is ignored."""
    return [Item(*row) for row in await statements.LIST.fetch(session, filters, limit)]


async def list_movements(
    session: Session, item_id: UUID, after: int | None, limit: int
) -> Sequence[Movement]:
    """Return an item's movements, newest first; `after` is the version of the last movement read."""
    rows = await session.fetch(statements.MOVEMENTS, item_id, after, limit)
    if not rows:
        await read_item(session, item_id)
    return [Movement(*row) for row in rows]


def _item(new: ItemCreate) -> Item:
    now = datetime.now(UTC)
    return Item(
        id=uuid7(),
        sku=new.sku,
        name=new.name,
        description=new.description,
        price=f"{Decimal(new.price):.2f}",
        currency=new.currency,
        quantity=new.quantity,
        attributes=new.attributes,
        version=1,
        created_at=now,
        updated_at=now,
    )


def _merged(stored: Any, patch: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = merge_patch(stored, patch)
    if problem := attributes_problem(merged):
        raise ValidationFailed([Detail("/attributes", problem)])
    return merged


async def _rejection(
    session: Session, item_id: UUID, versions: list[int] | None, delta: int | None = None
) -> Fault:
    """Return the error that explains, from the current row, why a guarded statement changed nothing."""
    row = await session.fetchrow(statements.READ_STATE, item_id)
    if row is None:
        return NotFound()
    if delta is None or (versions is not None and row["version"] not in versions):
        return PreconditionFailed(row["version"])
    if row["quantity"] + delta > QUANTITY_MAX:
        return ValidationFailed([Detail("/delta", f"would raise the quantity above {QUANTITY_MAX}")])
    return InsufficientStock(
        details=[{"item_id": item_id, "sku": row["sku"], "requested": -delta, "available": row["quantity"]}]
    )
