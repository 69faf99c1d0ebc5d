"""Stock allocation: a pure function of stock and orders, without I/O."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from uuid import UUID

from msgspec import Struct

from service.errors import Detail, Fault
from service.items.faults import InsufficientStock, ItemArchived, UnknownItem
from service.orders.schemas import OrderCreate, OrderLineCreate
from service.values import Currency


class MixedCurrencies(Fault):
    status, code, message = 422, "MIXED_CURRENCIES", "All items of an order must have the same currency"


class Stock(Struct):
    """An item's stock during a batch."""

    item_id: UUID
    sku: str
    name: str
    unit_price: Decimal
    currency: Currency
    quantity: int
    version: int
    archived: bool = False
    low_stock_at: int | None = None


class AllocatedLine(Struct, frozen=True):
    """An allocated line, with the item's stock and version after it."""

    stock: Stock
    quantity: int
    amount: Decimal
    remaining: int
    version: int


class Allocation(Struct, frozen=True):
    """The lines of one order, allocated completely."""

    currency: Currency
    total: Decimal
    lines: list[AllocatedLine]


StockIndex = Mapping[UUID | str, Stock]
"""Stock by item id and by SKU."""


def index_stock(stock: Iterable[Stock]) -> StockIndex:
    """Index stock by item id and SKU.

    Both refer to one object, so an allocation by either counts for both.
    """
    index: dict[UUID | str, Stock] = {}
    for entry in stock:
        index[entry.item_id] = index[entry.sku] = entry
    return index


def allocate(stock: StockIndex, orders: Sequence[OrderCreate]) -> list[Allocation | Fault]:
    """Allocate stock to the orders in sequence, each completely or not at all.

    A rejected order consumes nothing. Updates `stock`: reduces quantities, and increments an entry's version
    for every allocated line.
    """
    return [_allocate_one(stock, order) for order in orders]


def _allocate_one(stock: StockIndex, order: OrderCreate) -> Allocation | Fault:
    requested: dict[UUID, int] = {}
    unknown: list[Detail] = []
    for index, line in enumerate(order.lines):
        entry = stock.get(item_reference(line))
        if entry is None:
            unknown.append(_unknown(index, line))
        else:
            requested[entry.item_id] = requested.get(entry.item_id, 0) + line.quantity
    if unknown:
        return UnknownItem(details=unknown)
    if archived := _archived(stock, order):
        return ItemArchived(details=archived)
    entries = [(stock[item_id], quantity) for item_id, quantity in requested.items()]
    return _rejection(stock, order, entries) or _allocate_lines(entries)


def _archived(stock: StockIndex, order: OrderCreate) -> list[dict[str, object]]:
    """Return the archived items of an order, each with the lines that name it."""
    lines: dict[UUID, list[int]] = {}
    for index, line in enumerate(order.lines):
        entry = stock[item_reference(line)]
        if entry.archived:
            lines.setdefault(entry.item_id, []).append(index)
    return [{"item_id": id_, "sku": stock[id_].sku, "lines": indexes} for id_, indexes in lines.items()]


def item_reference(line: OrderLineCreate) -> UUID | str:
    """Return the line's item id or SKU."""
    return line.item_id if isinstance(line.item_id, UUID) else str(line.sku)


def _rejection(stock: StockIndex, order: OrderCreate, entries: list[tuple[Stock, int]]) -> Fault | None:
    if len({entry.currency for entry, _ in entries}) > 1:
        return MixedCurrencies()
    short = [
        {
            "item_id": entry.item_id,
            "sku": entry.sku,
            "lines": [no for no, line in enumerate(order.lines) if stock[item_reference(line)] is entry],
            "requested": quantity,
            "available": entry.quantity,
        }
        for entry, quantity in entries
        if entry.quantity < quantity
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


def _unknown(index: int, line: OrderLineCreate) -> Detail:
    field = "item_id" if isinstance(line.item_id, UUID) else "sku"
    return Detail(f"/lines/{index}/{field}", "does not exist")
