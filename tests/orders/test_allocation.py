"""The allocation of stock to orders, a pure function: no HTTP and no database."""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from decimal import Decimal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from service.errors import Fault
from service.items.faults import InsufficientStock
from service.orders.allocation import (
    Allocation,
    MixedCurrencies,
    Stock,
    StockIndex,
    UnknownItem,
    allocate,
    index_stock,
    item_reference,
)
from service.orders.schemas import OrderCreate, OrderLineCreate


def entry(number: int, quantity: int = 10, price: str = "9.99", currency: str = "USD") -> Stock:
    return Stock(UUID(int=number), f"SKU-{number}", f"Item {number}", Decimal(price), currency, quantity, 1)


def by_id(number: int, quantity: int) -> OrderLineCreate:
    return OrderLineCreate(quantity=quantity, item_id=UUID(int=number))


def by_sku(number: int, quantity: int) -> OrderLineCreate:
    return OrderLineCreate(quantity=quantity, sku=f"SKU-{number}")


def an_order(*lines: OrderLineCreate) -> OrderCreate:
    return OrderCreate(customer_id="c-1", lines=list(lines))


def place(stock: Sequence[Stock], *lines: OrderLineCreate) -> Allocation | Fault:
    (outcome,) = allocate(index_stock(stock), [an_order(*lines)])
    return outcome


def placed(outcome: Allocation | Fault) -> Allocation:
    assert isinstance(outcome, Allocation), outcome
    return outcome


def test_an_order_reduces_the_stock() -> None:
    bolt = entry(1, quantity=10)
    (line,) = placed(place([bolt], by_id(1, 3))).lines
    assert (line.quantity, line.remaining, line.version) == (3, 7, 2)
    assert (bolt.quantity, bolt.version) == (7, 2)


def test_the_last_units_can_be_sold() -> None:
    bolt = entry(1, quantity=3)
    placed(place([bolt], by_id(1, 3)))
    assert bolt.quantity == 0


def test_lines_of_one_item_are_summed_whether_by_id_or_by_sku() -> None:
    allocation = placed(place([entry(1)], by_sku(1, 2), by_id(1, 3), by_sku(1, 1)))
    (line,) = allocation.lines
    assert (line.quantity, line.amount, line.version) == (6, Decimal("59.94"), 2)


def test_lines_of_one_item_are_short_together() -> None:
    rejection = place([entry(1, quantity=4)], by_sku(1, 2), by_id(1, 3))
    assert isinstance(rejection, InsufficientStock)
    assert rejection.details == [
        {"item_id": UUID(int=1), "sku": "SKU-1", "lines": [0, 1], "requested": 5, "available": 4},
    ]


def test_every_short_line_is_listed_and_no_other() -> None:
    rejection = place([entry(1, 0), entry(2, 5), entry(3, 1)], by_id(1, 1), by_id(2, 5), by_id(3, 2))
    assert isinstance(rejection, InsufficientStock)
    assert [(d["sku"], d["requested"], d["available"]) for d in rejection.details] == [
        ("SKU-1", 1, 0),
        ("SKU-3", 2, 1),
    ]


def test_a_short_line_rejects_the_whole_order() -> None:
    stock = [entry(1, 10), entry(2, 0)]
    assert isinstance(place(stock, by_id(1, 1), by_id(2, 1)), InsufficientStock)
    assert [(each.quantity, each.version) for each in stock] == [(10, 1), (0, 1)]


def test_every_unknown_item_is_listed_with_its_line_and_field() -> None:
    rejection = place([entry(1)], by_id(8, 1), by_id(1, 1), by_sku(9, 1))
    assert isinstance(rejection, UnknownItem)
    assert [detail.field for detail in rejection.details] == ["/lines/0/item_id", "/lines/2/sku"]


def test_an_unknown_item_is_reported_before_a_short_one() -> None:
    assert isinstance(place([entry(1, 0)], by_id(1, 1), by_id(9, 1)), UnknownItem)


def test_an_order_in_two_currencies_is_rejected() -> None:
    stock = [entry(1, currency="USD"), entry(2, currency="EUR")]
    assert isinstance(place(stock, by_id(1, 1), by_id(2, 1)), MixedCurrencies)
    assert [each.quantity for each in stock] == [10, 10]


def test_an_order_has_the_currency_of_its_items() -> None:
    assert placed(place([entry(1, currency="EUR")], by_id(1, 1))).currency == "EUR"


def test_the_total_of_the_largest_possible_order_is_exact() -> None:
    stock = [entry(number, 1_000_000, price="9999999999.99") for number in range(100)]
    lines = [by_id(number, 1_000_000) for number in range(100)]
    assert placed(place(stock, *lines)).total == Decimal("999999999999000000.00")


def test_earlier_orders_are_served_first_and_a_rejected_one_consumes_nothing() -> None:
    orders = [an_order(by_id(1, quantity)) for quantity in (6, 5, 4, 1)]
    first, too_many, fits, late = allocate(index_stock([entry(1, quantity=10)]), orders)
    assert [placed(outcome).lines[0].remaining for outcome in (first, fits)] == [4, 0]
    assert isinstance(too_many, InsufficientStock)
    assert isinstance(late, InsufficientStock)


NUMBERS = st.integers(1, 5)
PRICES = st.decimals(0, Decimal("9999999999.99"), places=2).map(str)
STOCK = st.lists(
    st.builds(entry, NUMBERS, st.integers(0, 12), PRICES, st.sampled_from(["USD", "USD", "EUR"])),
    unique_by=lambda stock: stock.sku,
)
LINES = st.one_of(st.builds(by_id, NUMBERS, st.integers(1, 6)), st.builds(by_sku, NUMBERS, st.integers(1, 6)))
ORDERS = st.lists(st.lists(LINES, min_size=1, max_size=4).map(lambda lines: an_order(*lines)), max_size=12)


@given(STOCK, ORDERS)
def test_no_stock_appears_or_vanishes(stock: list[Stock], orders: list[OrderCreate]) -> None:
    before = {each.item_id: each.quantity for each in stock}
    outcomes = allocate(index_stock(stock), orders)
    lines = [line for outcome in outcomes if isinstance(outcome, Allocation) for line in outcome.lines]
    for each in stock:
        taken = sum(line.quantity for line in lines if line.stock is each)
        assert each.quantity == before[each.item_id] - taken >= 0


@given(STOCK, ORDERS)
def test_a_batch_has_the_same_outcome_as_its_orders_one_by_one(
    stock: list[Stock], orders: list[OrderCreate]
) -> None:
    together, one_by_one = index_stock(deepcopy(stock)), index_stock(deepcopy(stock))
    batch = allocate(together, orders)
    singly = [outcome for order in orders for outcome in allocate(one_by_one, [order])]
    assert [comparable(outcome) for outcome in batch] == [comparable(outcome) for outcome in singly]
    assert together == one_by_one


@given(STOCK, ORDERS)
def test_a_rejected_order_does_not_affect_the_others(stock: list[Stock], orders: list[OrderCreate]) -> None:
    outcomes = allocate(index_stock(deepcopy(stock)), orders)
    served = [
        order for order, outcome in zip(orders, outcomes, strict=True) if isinstance(outcome, Allocation)
    ]
    without = allocate(index_stock(deepcopy(stock)), served)
    assert [comparable(outcome) for outcome in without] == [
        comparable(outcome) for outcome in outcomes if isinstance(outcome, Allocation)
    ]


@given(STOCK, ORDERS)
def test_an_order_is_rejected_if_and_only_if_there_is_a_reason(
    stock: list[Stock], orders: list[OrderCreate]
) -> None:
    index = index_stock(stock)
    for order in orders:
        reason = expected_fault(index, order)
        (outcome,) = allocate(index, [order])
        assert type(outcome) is (reason or Allocation)


@given(STOCK, ORDERS)
def test_totals_are_exact(stock: list[Stock], orders: list[OrderCreate]) -> None:
    for outcome in allocate(index_stock(stock), orders):
        if isinstance(outcome, Allocation):
            cents = [int(line.stock.unit_price * 100) * line.quantity for line in outcome.lines]
            assert [int(line.amount * 100) for line in outcome.lines] == cents
            assert int(outcome.total * 100) == sum(cents)
            assert outcome.total.as_tuple().exponent == -2


def comparable(outcome: Allocation | Fault) -> object:
    if isinstance(outcome, Fault):
        return type(outcome), outcome.details
    return (
        outcome.currency,
        outcome.total,
        [
            (line.stock.sku, line.quantity, line.amount, line.remaining, line.version)
            for line in outcome.lines
        ],
    )


def expected_fault(index: StockIndex, order: OrderCreate) -> type[Fault] | None:
    """Return the error that an order must get, as simply as possible."""
    known = [index[item_reference(line)] for line in order.lines if item_reference(line) in index]
    if len(known) < len(order.lines):
        return UnknownItem
    if len({stock.currency for stock in known}) > 1:
        return MixedCurrencies
    wanted: Counter[UUID] = Counter()
    for line in order.lines:
        wanted[index[item_reference(line)].item_id] += line.quantity
    short = any(index[item_id].quantity < quantity for item_id, quantity in wanted.items())
    return InsufficientStock if short else None
