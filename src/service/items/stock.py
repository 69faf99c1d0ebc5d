"""Stock changes, by a difference or to a counted quantity, of one item or of many in one request."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast
from uuid import UUID

import asyncpg
from msgspec import UNSET
from msgspec.structs import asdict

from service.database.batch import BatchKind
from service.database.batch_key import BatchKey
from service.database.session import Session
from service.errors import Detail, Fault, ValidationFailed
from service.events.journal import Author
from service.idempotency.replies import Claim, execute_once, prefer_stored_outcome, store_reply
from service.items import stock_statements as statements
from service.items.changes import ItemChange, change_columns, outcomes
from service.items.faults import InsufficientStock, QuantityChanged, UnknownItem
from service.items.schemas import (
    QUANTITY_MAX,
    Item,
    ItemStock,
    ItemStockChange,
    ItemStocks,
    StockChange,
    StockChanges,
)

AnyChange = StockChange | ItemStockChange


class Matched(NamedTuple):
    """A row of `statements.ADJUST_ALL`. `quantity` and `version` are None if nothing changed."""

    position: int
    item_id: UUID
    sku: str
    before: int
    quantity: int | None
    version: int | None


async def adjust_stocks(
    session: Session, changes: Sequence[ItemChange[StockChange]]
) -> list[Item | Exception]:
    """Change stocks. Each change takes effect or is rejected independently of the others."""
    rows = await session.fetch(*statements.ADJUST(**_adjustments(changes)))
    return await outcomes(session, changes, rows, _rejection)


ADJUST_STOCK: BatchKey[ItemChange[StockChange], Item] = BatchKey("adjust stock")
BATCHES: list[BatchKind[Any, Any]] = [
    BatchKind(ADJUST_STOCK, adjust_stocks, conflict_key=lambda change: change.item_id)
]


async def adjust_stock_idempotently(
    session: Session, change: ItemChange[StockChange], claim: Claim
) -> tuple[int, bytes]:
    """Return the item's version and the reply's body.

    Raises `Replay` if the claim already has a stored reply.
    """
    row = await execute_once(session, claim, statements.ADJUST_IDEMPOTENTLY, **_adjustments([change]))
    if row is None:
        (rejection,) = await outcomes(session, [change], [], _rejection)
        raise cast("Exception", rejection)
    return row["version"], row["body"]


async def adjust_all(
    session: Session, requested: StockChanges, claim: Claim | None, author: Author
) -> ItemStocks:
    """Change the stock of all items, or of none. Raises `Replay` if the claim already has a stored reply."""
    changes = requested.changes
    arguments = {**_amounts(changes), "reason": requested.reason, **asdict(author)}
    arguments["item_ids"] = [None if change.item_id is UNSET else change.item_id for change in changes]
    arguments["skus"] = [None if change.sku is UNSET else change.sku for change in changes]
    async with session.transaction(), prefer_stored_outcome(session, claim):
        matched = [Matched(*row) for row in await session.fetch(*statements.ADJUST_ALL(**arguments))]
        if fault := _rejection_of_all(changes, matched):
            raise fault
        stocks = ItemStocks([_changed_stock(row) for row in matched])
        await store_reply(session, claim, 200, stocks)
    return stocks


def _changed_stock(row: Matched) -> ItemStock:
    return ItemStock(row.item_id, row.sku, cast("int", row.quantity), cast("int", row.version))


def _amounts(changes: Sequence[AnyChange]) -> dict[str, Any]:
    fields = {"deltas": "delta", "quantities": "quantity", "expected": "expected"}
    values = {column: [getattr(change, name) for change in changes] for column, name in fields.items()}
    return {column: [None if value is UNSET else value for value in sent] for column, sent in values.items()}


def _adjustments(changes: Sequence[ItemChange[StockChange]]) -> dict[str, list[Any]]:
    bodies = [change.change for change in changes]
    return {**change_columns(changes), **_amounts(bodies), "reasons": [body.reason for body in bodies]}


def _rejection(change: StockChange, state: asyncpg.Record) -> Fault:
    """Return why the stock of an item with the required version did not change."""
    if problem := _delta_problem(change, state["quantity"]):
        return ValidationFailed([Detail("/delta", problem)])
    if change.delta is UNSET:
        return QuantityChanged(details=[{"expected": change.expected, "quantity": state["quantity"]}])
    return InsufficientStock(details=[_shortage(state["id"], state["sku"], change.delta, state["quantity"])])


def _rejection_of_all(changes: Sequence[ItemStockChange], matched: Sequence[Matched]) -> Fault | None:
    """Return the error that lists all changes that are not possible, or None."""
    by_index = {row.position: row for row in matched}
    if unknown := [_unknown(i, change) for i, change in enumerate(changes) if i not in by_index]:
        return UnknownItem(details=unknown)
    if invalid := _invalid(changes, matched):
        return ValidationFailed(invalid)
    different = [
        _difference(changes[row.position], row) for row in matched if _is_outdated_count(changes, row)
    ]
    short = [
        {**_shortage(row.item_id, row.sku, delta, row.before), "change": row.position}
        for row in matched
        if (delta := changes[row.position].delta) is not UNSET and row.before + delta < 0
    ]
    if different:
        return QuantityChanged(details=[*different, *short])
    return InsufficientStock(details=short) if short else None


def _invalid(changes: Sequence[ItemStockChange], matched: Sequence[Matched]) -> list[Detail]:
    """Return an error for each change that names the item of an earlier one or exceeds the maximum."""
    first: dict[UUID, int] = {}
    details = []
    for row in matched:
        if (earlier := first.setdefault(row.item_id, row.position)) != row.position:
            details.append(Detail(f"/changes/{row.position}", f"names the same item as /changes/{earlier}"))
        elif problem := _delta_problem(changes[row.position], row.before):
            details.append(Detail(f"/changes/{row.position}/delta", problem))
    return details


def _is_outdated_count(changes: Sequence[ItemStockChange], row: Matched) -> bool:
    return changes[row.position].delta is UNSET and changes[row.position].expected != row.before


def _difference(change: ItemStockChange, row: Matched) -> Mapping[str, object]:
    item = {"item_id": row.item_id, "sku": row.sku, "change": row.position}
    return {**item, "expected": change.expected, "quantity": row.before}


def _shortage(item_id: UUID, sku: str, delta: int, available: int) -> dict[str, object]:
    return {"item_id": item_id, "sku": sku, "requested": -delta, "available": available}


def _unknown(index: int, change: ItemStockChange) -> Detail:
    return Detail(f"/changes/{index}/{'sku' if change.item_id is UNSET else 'item_id'}", "does not exist")


def _delta_problem(change: AnyChange, quantity: int) -> str | None:
    if change.delta is not UNSET and quantity + change.delta > QUANTITY_MAX:
        return f"would raise the quantity above {QUANTITY_MAX}"
    return None
