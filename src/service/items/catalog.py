"""Item operations. Each takes one round trip, and one more to explain a rejection."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar, cast
from unicodedata import normalize
from uuid import UUID

import asyncpg
from msgspec import UNSET, Struct
from msgspec.structs import asdict, astuple, replace
from uuid_utils.compat import uuid7

from service.database.batch import BatchKey, BatchKind
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
from service.items.faults import DuplicateSku, InsufficientStock
from service.items.schemas import (
    ATTRIBUTES_BYTES_MAX,
    QUANTITY_MAX,
    Item,
    ItemCreate,
    ItemPatch,
    Movement,
    StockChange,
)
from service.values import encode_json, format_amount, price_problem, size_problem

Change = TypeVar("Change", ItemPatch, StockChange)


class ItemChange(Struct, Generic[Change], frozen=True):
    """A change of one item; `versions` are those of `If-Match`, or None without that header."""

    item_id: UUID
    change: Change
    author: Author
    versions: list[int] | None = None


FAULT_BY_CONSTRAINT = {"uq_items_sku": DuplicateSku, "fk_order_lines_item_id_items": InUse}
"""Errors by the name of the violated constraint."""


async def create_item(session: Session, new: ItemCreate, claim: Claim | None, author: Author) -> Item:
    """Create an item and return it. Raises `Replay` if the claim already has a stored reply."""
    if problem := price_problem(new.price, new.currency):
        raise ValidationFailed([Detail("/price", problem)])
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


async def read_items(session: Session, item_ids: Sequence[UUID]) -> list[Item | Exception]:
    """Return each item, or `NotFound` in its place."""
    items = {item.id: item for item in _items(await session.fetch(statements.READ, item_ids))}
    return [items.get(item_id) or NotFound() for item_id in item_ids]


async def patch_items(session: Session, changes: Sequence[ItemChange[ItemPatch]]) -> list[Item | Exception]:
    """Set the fields that were sent, of each item alone."""
    patches = {"patches": [change.change for change in changes]}
    rows = await session.fetch(*statements.PATCH(**patches, **_columns(changes)))
    return await _outcomes(session, changes, _items(rows))


async def merge_items(session: Session, changes: Sequence[ItemChange[ItemPatch]]) -> list[Item | Exception]:
    """Set the fields that were sent, and merge `attributes` into those that are stored (RFC 7396)."""
    async with session.transaction():
        rows = await session.fetch(statements.LOCK_ATTRIBUTES, [change.item_id for change in changes])
        stored = {row["id"]: row["attributes"] for row in rows}
        merged = [_merged(stored.get(change.item_id), change) for change in changes]
        valid = [change for change in merged if isinstance(change, ItemChange)]
        outcomes = iter(await patch_items(session, valid))
    return [change if isinstance(change, Fault) else next(outcomes) for change in merged]


async def adjust_stocks(
    session: Session, changes: Sequence[ItemChange[StockChange]]
) -> list[Item | Exception]:
    """Add or remove pieces, of each item alone."""
    rows = await session.fetch(*statements.ADJUST(**_adjustments(changes)))
    return await _outcomes(session, changes, _items(rows))


READ_ITEM: BatchKey[UUID, Item] = BatchKey("read items")
PATCH_ITEM: BatchKey[ItemChange[ItemPatch], Item] = BatchKey("patch items")
MERGE_ITEM: BatchKey[ItemChange[ItemPatch], Item] = BatchKey("merge items")
ADJUST_STOCK: BatchKey[ItemChange[StockChange], Item] = BatchKey("adjust stock")
BATCHES: list[BatchKind[Any, Any]] = [
    BatchKind(READ_ITEM, read_items),
    BatchKind(PATCH_ITEM, patch_items, conflict_key=lambda change: change.item_id),
    BatchKind(MERGE_ITEM, merge_items, conflict_key=lambda change: change.item_id),
    BatchKind(ADJUST_STOCK, adjust_stocks, conflict_key=lambda change: change.item_id),
]


async def patch_item(session: Session, change: ItemChange[ItemPatch], *, merge: bool) -> Item:
    """Set the fields that were sent; `merge` merges `attributes` (RFC 7396) instead of replacing them."""
    if all(value is UNSET for value in astuple(change.change)):
        raise NoFields
    merges_attributes = merge and isinstance(change.change.attributes, dict)
    return await session.join(MERGE_ITEM if merges_attributes else PATCH_ITEM, change)


async def adjust_stock_idempotently(
    session: Session, change: ItemChange[StockChange], claim: Claim
) -> tuple[int, bytes]:
    """Return the item's version and the reply's body.

    Raises `Replay` if the claim already has a stored reply.
    """
    row = await execute_once(session, claim, statements.ADJUST_IDEMPOTENTLY, **_adjustments([change]))
    if row is None:
        (rejection,) = await _outcomes(session, [change], [])
        raise cast("Exception", rejection)
    return row["version"], row["body"]


async def delete_item(session: Session, item_id: UUID, author: Author, *, versions: list[int] | None) -> None:
    deleted = await session.fetchval(statements.DELETE, item_id, versions, author.actor, author.request_id)
    if deleted is None:
        state = await session.fetchrow(statements.READ_STATE, [item_id])
        raise NotFound if state is None else PreconditionFailed(state["version"])


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
        await session.join(READ_ITEM, item_id)
    return [Movement(*row) for row in rows]


def _item(new: ItemCreate) -> Item:
    now = datetime.now(UTC)
    return Item(
        id=uuid7(),
        sku=new.sku,
        name=new.name,
        description=new.description,
        price=format_amount(Decimal(new.price), new.currency),
        currency=new.currency,
        quantity=new.quantity,
        attributes=new.attributes,
        archived=False,
        low_stock_at=new.low_stock_at,
        version=1,
        created_at=now,
        updated_at=now,
    )


def _merged(stored: Any, change: ItemChange[ItemPatch]) -> ItemChange[ItemPatch] | Fault:
    attributes = merge_patch(stored, change.change.attributes)
    if problem := size_problem(attributes, ATTRIBUTES_BYTES_MAX):
        return ValidationFailed([Detail("/attributes", problem)])
    return replace(change, change=replace(change.change, attributes=attributes))


def _items(rows: Iterable[asyncpg.Record]) -> list[Item]:
    return [Item(*row) for row in rows]


def _columns(changes: Sequence[ItemChange[Any]]) -> dict[str, list[Any]]:
    return {
        "item_ids": [change.item_id for change in changes],
        # As text, because asyncpg would take a list of lists for an array of two dimensions.
        "versions": [
            None if change.versions is None else encode_json(change.versions).decode() for change in changes
        ],
        "actors": [change.author.actor for change in changes],
        "request_ids": [change.author.request_id for change in changes],
    }


def _adjustments(changes: Sequence[ItemChange[StockChange]]) -> dict[str, list[Any]]:
    deltas = [change.change.delta for change in changes]
    return {**_columns(changes), "deltas": deltas, "reasons": [change.change.reason for change in changes]}


async def _outcomes(
    session: Session, changes: Sequence[ItemChange[Any]], changed: Iterable[Item]
) -> list[Item | Exception]:
    """Return the changed items, and the reason in the place of each item that did not change."""
    items = {item.id: item for item in changed}
    unchanged = [change.item_id for change in changes if change.item_id not in items]
    rows = await session.fetch(statements.READ_STATE, unchanged) if unchanged else []
    states = {row["id"]: row for row in rows}
    return [items.get(change.item_id) or _rejection(change, states.get(change.item_id)) for change in changes]


def _rejection(change: ItemChange[Any], state: asyncpg.Record | None) -> Fault:
    """Return the error that explains, from the current row, why a guarded statement changed nothing."""
    if state is None:
        return NotFound()
    stale = change.versions is not None and state["version"] not in change.versions
    if stale:
        return PreconditionFailed(state["version"])
    if isinstance(change.change, ItemPatch):
        detail = _price_detail(change.change, state["price"], state["currency"])
        return ValidationFailed([detail]) if detail else PreconditionFailed(state["version"])
    delta = change.change.delta
    if state["quantity"] + delta > QUANTITY_MAX:
        return ValidationFailed([Detail("/delta", f"would raise the quantity above {QUANTITY_MAX}")])
    return InsufficientStock(
        details=[
            {
                "item_id": change.item_id,
                "sku": state["sku"],
                "requested": -delta,
                "available": state["quantity"],
            }
        ]
    )


def _price_detail(patch: ItemPatch, stored_price: Decimal, stored_currency: str) -> Detail | None:
    """Return the error if a price and a currency do not fit together, one of which may be the stored one."""
    currency = stored_currency if patch.currency is UNSET else patch.currency
    if patch.price is not UNSET:
        problem = price_problem(patch.price, currency)
        return Detail("/price", problem) if problem else None
    price = format_amount(stored_price, currency)
    problem = f"does not fit the price {price}, because {currency} has no decimals"
    return Detail("/currency", problem) if price_problem(price, currency) else None
