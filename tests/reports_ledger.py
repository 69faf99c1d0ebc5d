"""Random ledgers for the tests of reports: written in SQL, added up by brute force."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import NamedTuple

import asyncpg
from hypothesis import strategies as st

from conftest import AS_OWNER
from shop import connected

WIPE = f"{AS_OWNER}; truncate transactions, order_lines, orders, movements, items"
DAYS = (datetime(2026, 2, 26, tzinfo=UTC), datetime(2026, 4, 2, tzinfo=UTC))
"""Over the end of a February and the days on which clocks change."""


Line = tuple[str, str, int, str, str, str]


class Sale(NamedTuple):
    """An order of one line, and when it was refunded, if it was."""

    at: datetime
    item: int
    quantity: int
    price: Decimal
    currency: str
    refunded_at: datetime | None


MOMENTS = st.datetimes(*(day.replace(tzinfo=None) for day in DAYS)).map(lambda at: at.replace(tzinfo=UTC))
SALES = st.lists(
    st.builds(
        Sale,
        at=MOMENTS,
        item=st.integers(1, 14),
        quantity=st.integers(1, 1000),
        price=st.decimals(0, 9_999_999_999, places=2),
        currency=st.sampled_from(["USD", "EUR", "JPY"]),
        refunded_at=st.none() | MOMENTS,
    ),
    max_size=25,
)


async def write(database_url: str, sales: Sequence[Sale]) -> None:
    async with connected(database_url) as connection:
        await _write(connection, sales)


async def _write(connection: "asyncpg.Connection[asyncpg.Record]", sales: Sequence[Sale]) -> None:
    await connection.execute(WIPE)
    await connection.execute(
        """insert into items (id, sku, name, price, currency, quantity, version)
           select uuidv7(), 'SKU-' || n, 'Item', 1, 'USD', 0, 1
           from generate_series(1, 14) n"""
    )
    for sale in sales:
        await _write_one(connection, sale)


async def _write_one(connection: "asyncpg.Connection[asyncpg.Record]", sale: Sale) -> None:
    amount = sale.price * sale.quantity
    order_id = await connection.fetchval(
        """insert into orders (id, status, customer_id, currency, total, version, created_at)
           values (uuidv7(), $1, 'c', $2, $3, 1, $4) returning id""",
        "placed" if sale.refunded_at is None else "cancelled", sale.currency, amount, sale.at,
    )  # fmt: skip
    await connection.execute(
        """insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount)
           select $1, 1, id, sku, name, $3, $4, $5 from items where sku = 'SKU-' || $2::int""",
        order_id, sale.item, sale.quantity, sale.price, amount,
    )  # fmt: skip
    for kind, at in (("sale", sale.at), ("refund", sale.refunded_at)):
        if at is not None:
            await connection.execute(
                "insert into transactions (id, order_id, kind, amount, currency, created_at) "
                "values (uuidv7(), $1, $2, $3, $4, $5)",
                order_id, kind, amount, sale.currency, at,
            )  # fmt: skip


def by_day(sales: Sequence[Sale], begin: date, end: date, currency: str | None) -> list[Line]:
    """Date, currency, orders, sales, refunds and net of each day on which there was something."""
    sums: dict[tuple[date, str], list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 3)
    for sale in sales:
        amount = sale.price * sale.quantity
        for position, at in ((1, sale.at), (2, sale.refunded_at)):
            if at is not None and begin <= at.date() < end and currency in {None, sale.currency}:
                found = sums[at.date(), sale.currency]
                found[position] += amount
                found[0] += position == 1
    return [
        (f"{day}", money, int(orders), f"{sold:.2f}", f"{refunded:.2f}", f"{sold - refunded:.2f}")
        for (day, money), (orders, sold, refunded) in sorted(sums.items())
    ]
