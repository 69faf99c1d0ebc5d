"""Item operations. All but a merge take one round trip, and one more to explain a rejection."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unicodedata import normalize
from uuid import UUID

import asyncpg
from msgspec import UNSET, Struct
from msgspec.structs import asdict, astuple, replace
from uuid_utils.compat import uuid7

from service.database.batch import BatchKind
from service.database.batch_key import BatchKey
from service.database.session import Session
from service.errors import Detail, Fault, InUse, NoFields, NotFound, PreconditionFailed, ValidationFailed
from service.events.journal import Author
from service.http.merge import merge_patch
from service.idempotency.replies import (
    Claim,
    creation_reply,
    raise_claim_conflict,
    reply_arguments,
)
from service.items import statements
from service.items.changes import ItemChange, change_columns, outcomes
from service.items.faults import DuplicateSku
from service.items.schemas import (
    ATTRIBUTES_BYTES_MAX,
    Item,
    ItemCreate,
    ItemPatch,
    Movement,
)
from service.times import LAST_ID
from service.values import Currency, format_amount, price_problem, size_problem

FAULT_BY_CONSTRAINT = {"uq_items_sku": DuplicateSku, "fk_order_lines_item_id_items": InUse}
"""Errors by the name of the violated constraint."""


async def create_item(
    session: Session, new: ItemCreate, claim: Claim | None, author: Author, *, default_currency: Currency
) -> Item:
    """Create an item and return it. Raises `Replay` if the claim already has a stored reply."""
    currency = default_currency if new.currency is UNSET else new.currency
    if problem := price_problem(new.price, currency):
        raise ValidationFailed([Detail("/price", problem)])
    item = _item(new, currency)
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
    items = {row["id"]: Item(*row) for row in await session.fetch(statements.READ, item_ids)}
    return [items.get(item_id) or NotFound() for item_id in item_ids]


class ItemPage(Struct, frozen=True):
    """A page of the archived items, or of the others, after the item with an id."""

    archived: bool
    after: UUID
    rows: int


async def read_pages(session: Session, pages: Sequence[ItemPage]) -> list[list[Item]]:
    """Return the items of each page, newest first. Equal pages are read once and share their items."""
    items: dict[ItemPage, list[Item]] = {page: [] for page in pages}
    by_number = dict(enumerate(items.values(), start=1))
    for row in await session.fetch(statements.READ_PAGES, *zip(*map(astuple, items), strict=True)):
        by_number[row["number"]].append(Item(*row[1:]))
    return [items[page] for page in pages]


async def patch_items(session: Session, changes: Sequence[ItemChange[ItemPatch]]) -> list[Item | Exception]:
    """Set the fields that were sent. Each change takes effect or is rejected independently of the others."""
    patches = {"patches": [change.change for change in changes]}
    rows = await session.fetch(*statements.PATCH(**patches, **change_columns(changes)))
    return await outcomes(session, changes, rows, _patch_rejection)


async def merge_items(session: Session, changes: Sequence[ItemChange[ItemPatch]]) -> list[Item | Exception]:
    """Set the fields that were sent, and merge `attributes` into those that are stored (RFC 7396).

    Each change is of another item.
    """
    async with session.transaction():
        rows = await session.fetch(statements.LOCK_ATTRIBUTES, [change.item_id for change in changes])
        stored = {row["id"]: row["attributes"] for row in rows}
        merged = [_merge(stored.get(change.item_id), change) for change in changes]
        valid = [change for change in merged if isinstance(change, ItemChange)]
        items = await patch_items(session, valid)
    patched = {change.item_id: item for change, item in zip(valid, items, strict=True)}
    return [change if isinstance(change, Fault) else patched[change.item_id] for change in merged]


READ_ITEM: BatchKey[UUID, Item] = BatchKey("read items")
READ_PAGE: BatchKey[ItemPage, list[Item]] = BatchKey("read pages of items")
PAGES_MAX = 16
"""Maximum number of pages in a batch. A larger one would block the event loop while its rows arrive."""
PATCH_ITEM: BatchKey[ItemChange[ItemPatch], Item] = BatchKey("patch items")
MERGE_ITEM: BatchKey[ItemChange[ItemPatch], Item] = BatchKey("merge items")
BATCHES: list[BatchKind[Any, Any]] = [
    BatchKind(READ_ITEM, read_items),
    BatchKind(READ_PAGE, read_pages, size_max=PAGES_MAX),
    BatchKind(PATCH_ITEM, patch_items, conflict_key=lambda change: change.item_id),
    BatchKind(MERGE_ITEM, merge_items, conflict_key=lambda change: change.item_id),
]


async def patch_item(session: Session, change: ItemChange[ItemPatch], *, merge: bool) -> Item:
    """Set the fields that were sent; `merge` merges `attributes` (RFC 7396) instead of replacing them."""
    if all(value is UNSET for value in astuple(change.change)):
        raise NoFields
    merges_attributes = merge and isinstance(change.change.attributes, dict)
    return await session.join(MERGE_ITEM if merges_attributes else PATCH_ITEM, change)


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
    provided = {name: value for name, value in filters.items() if value is not None}
    if provided.keys() - {"after"} == {"archived"}:
        page = ItemPage(provided["archived"], provided.get("after", LAST_ID), limit)
        return await session.join(READ_PAGE, page)
    return [Item(*row) for row in await statements.LIST.fetch(session, provided, limit)]


async def list_movements(
    session: Session, item_id: UUID, after: int | None, limit: int
) -> Sequence[Movement]:
    """Return an item's movements, newest first; `after` is the version of the last movement read."""
    filters = {"item_id": item_id, "after": after}
    rows = await statements.LIST_MOVEMENTS.fetch(session, filters, limit)
    if not rows:
        await session.join(READ_ITEM, item_id)
    return [Movement(*row) for row in rows]


def _item(new: ItemCreate, currency: Currency) -> Item:
    now = datetime.now(UTC)
    return Item(
        id=uuid7(),
        sku=new.sku,
        name=new.name,
        description=new.description,
        price=format_amount(Decimal(new.price), currency),
        currency=currency,
        quantity=new.quantity,
        attributes=new.attributes,
        archived=False,
        low_stock_at=new.low_stock_at,
        version=1,
        created_at=now,
        updated_at=now,
    )


def _merge(stored: Any, change: ItemChange[ItemPatch]) -> ItemChange[ItemPatch] | Fault:
    """Return the change with all attributes, or why they cannot be stored."""
    attributes = merge_patch(stored, change.change.attributes)
    if problem := size_problem(attributes, ATTRIBUTES_BYTES_MAX):
        return ValidationFailed([Detail("/attributes", problem)])
    return replace(change, change=replace(change.change, attributes=attributes))


def _patch_rejection(patch: ItemPatch, state: asyncpg.Record) -> Fault:
    """Return why an item with the required version did not change."""
    detail = _price_detail(patch, state["price"], state["currency"])
    return ValidationFailed([detail]) if detail else PreconditionFailed(state["version"])


def _price_detail(patch: ItemPatch, stored_price: Decimal, stored_currency: str) -> Detail | None:
    """Return the error if the price does not fit the currency; the patch may have only one of the two."""
    currency = stored_currency if patch.currency is UNSET else patch.currency
    if patch.price is not UNSET:
        problem = price_problem(patch.price, currency)
        return Detail("/price", problem) if problem else None
    price = format_amount(stored_price, currency)
    problem = f"does not fit the price {price}, because {currency} has no decimals"
    return Detail("/currency", problem) if price_problem(price, currency) else None
