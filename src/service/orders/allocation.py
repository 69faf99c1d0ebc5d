"""Who gets what: a pure rule over stock and orders, without I/O."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from uuid import UUID

from msgspec import Struct

from service.errors import Detail, Fault
from service.items.catalog import InsufficientStock
from service.orders.schemas import NewLine, NewOrder
from service.values import Currency


class UnknownItem(Fault):
    status, code, message = 422, "UNKNOWN_ITEM", "The order names items that do not exist"


class MixedCurrencies(Fault):
    status, code, message = 422, "MIXED_CURRENCIES", "All items of an order have to have one currency"


class Stock(Struct):
    """One item as it stands while orders are placed."""

    item_id: UUID
    sku: str
    name: str
    unit_price: Decimal
    currency: Currency
    quantity: int
    version: int


class AllocatedLine(Struct, frozen=True):
    """A line that got its pieces, and what was left of the item after it."""

    stock: Stock
    quantity: int
    amount: Decimal
    remaining: int
    version: int


class Allocation(Struct, frozen=True):
    currency: Currency
    total: Decimal
    lines: list[AllocatedLine]


StockIndex = Mapping[UUID | str, Stock]
"""Stock by item id and by SKU."""


def index_stock(stock: Iterable[Stock]) -> StockIndex:
    """An entry is one object under both of its names, so taking from one takes from the other."""
    shelf: dict[UUID | str, Stock] = {}
    for entry in stock:
        shelf[entry.item_id] = shelf[entry.sku] = entry
    return shelf


def allocate(shelf: StockIndex, orders: Sequence[NewOrder]) -> list[Allocation | Fault]:
    """Serve the orders one after the other, each wholly or not at all; a refused one consumes nothing.

    Takes what it allocates from `shelf`, and counts the version of an entry up for every taking.
    """
    return [_allocate_one(shelf, order) for order in orders]


def _allocate_one(shelf: StockIndex, order: NewOrder) -> Allocation | Fault:
    wanted: dict[UUID, int] = {}
    unknown: list[Detail] = []
    for index, line in enumerate(order.lines):
        stock = shelf.get(item_reference(line))
        if stock is None:
            unknown.append(_unknown(index, line))
        else:
            wanted[stock.item_id] = wanted.get(stock.item_id, 0) + line.quantity
    if unknown:
        return UnknownItem(details=unknown)
    entries = [(shelf[item_id], quantity) for item_id, quantity in wanted.items()]
    return _rejection(entries) or _allocate_lines(entries)


def item_reference(line: NewLine) -> UUID | str:
    """What the line calls its item by."""
    return line.item_id if isinstance(line.item_id, UUID) else str(line.sku)


def _rejection(entries: list[tuple[Stock, int]]) -> Fault | None:
    if len({stock.currency for stock, _ in entries}) > 1:
        return MixedCurrencies()
    short = [
        {
            "item_id": stock.item_id,
            "sku": stock.sku,
            "requested": quantity,
            "available": stock.quantity,
        }
        for stock, quantity in entries
        if stock.quantity < quantity
    ]
    return InsufficientStock("Cannot fulfill order", details=short) if short else None


def _allocate_lines(entries: list[tuple[Stock, int]]) -> Allocation:
    lines = []
    for stock, quantity in entries:
        stock.quantity -= quantity
        stock.version += 1
        lines.append(
            AllocatedLine(stock, quantity, stock.unit_price * quantity, stock.quantity, stock.version)
        )
    return Allocation(entries[0][0].currency, sum((line.amount for line in lines), Decimal(0)), lines)


def _unknown(index: int, line: NewLine) -> Detail:
    by = "item_id" if isinstance(line.item_id, UUID) else "sku"
    return Detail(f"/lines/{index}/{by}", "There is no such item")
