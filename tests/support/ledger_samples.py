"""Random ledgers for tests of reports, written in SQL and summed in Python."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import chain, groupby
from operator import itemgetter
from typing import NamedTuple

import asyncpg
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from conftest import AS_OWNER
from service.database.database import Database
from service.reports.books import close_until
from service.values import format_amount
from tests.support.app_helpers import connected

WIPE = f"""{AS_OWNER};
truncate transactions, order_lines, orders, movements, items, daily_sales, daily_item_sales;
update books set closed_until = '0001-01-01'"""
DAYS = (datetime(2026, 2, 26, tzinfo=UTC), datetime(2026, 4, 2, tzinfo=UTC))
"""A period with the end of a February and the days on which clocks change."""


WRITE = """
with items as (
  insert into items (id, sku, name, price, currency, quantity, version)
  select uuidv7(), 'SKU-' || n, 'Item', 1, 'USD', 0, 1 from generate_series(0, 59) n returning id, sku, name
), sales as (
  select * from unnest($1::uuid[], $2::numeric[], $3::timestamptz[], $4::int[], $5::int[], $6::numeric[],
    $7::text[], $8::timestamptz[]) as t (id, amount, at, item, quantity, price, currency, refunded_at)
), placed as (
  insert into orders (id, status, customer_id, currency, total, version, created_at)
  select id, case when refunded_at is null then 'placed' else 'cancelled' end, 'c', currency, amount, 1, at
  from sales
), lined as (
  insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount)
  select sales.id, 1, items.id, sku, name, quantity, price, amount
  from sales join items on items.sku = 'SKU-' || sales.item
)
insert into transactions (id, order_id, kind, amount, currency, created_at)
select uuidv7(), id, 'sale', amount, currency, at from sales
union all
select uuidv7(), id, 'refund', amount, currency, refunded_at from sales where refunded_at is not null"""


Line = tuple[str, str, int, str, str, str]


class Sale(NamedTuple):
    """An order of one line, and the time of its refund, if any."""

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


async def write(database_url: str, sales: Sequence[Sale], closed_until: datetime | None = None) -> None:
    """Replace the stored ledger, and close the books until that time."""
    async with connected(database_url) as connection:
        await _write(connection, sales)
        if closed_until is not None:
            await close_until(connection, closed_until)


async def _write(connection: "asyncpg.Connection[asyncpg.Record]", sales: Sequence[Sale]) -> None:
    await connection.execute(WIPE)
    rows = [(uuid7(), sale.price * sale.quantity, *sale) for sale in sales]
    columns = zip(*rows, strict=True) if rows else [[]] * 8
    await connection.execute(WRITE, *map(list, columns))


def by_day(sales: Sequence[Sale], begin: date, end: date, currency: str | None) -> list[Line]:
    """Return date, currency, orders, sales, refunds and net of each day that has any."""
    sums: dict[tuple[date, str], list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 3)
    for sale in sales:
        amount = sale.price * sale.quantity
        for position, at in ((1, sale.at), (2, sale.refunded_at)):
            if at is not None and begin <= at.date() < end and currency in {None, sale.currency}:
                found = sums[at.date(), sale.currency]
                found[position] += amount
                found[0] += position == 1
    return [
        (
            f"{day}",
            money,
            int(orders),
            format_amount(sold, money),
            format_amount(refunded, money),
            format_amount(sold - refunded, money),
        )
        for (day, money), (orders, sold, refunded) in sorted(sums.items())
    ]


def top_items(
    sales: Sequence[Sale], begin: date, end: date, currency: str | None
) -> list[tuple[str, str, int, str]]:
    """Return currency, SKU, quantity and amount of the ten best items of each currency, net of refunds."""
    sold: dict[tuple[str, str], tuple[int, Decimal]] = {}
    for sale in sales:
        for sign, at in ((1, sale.at), (-1, sale.refunded_at)):
            if at is not None and begin <= at.date() < end and currency in {None, sale.currency}:
                key = (sale.currency, f"SKU-{sale.item}")
                quantity, amount = sold.get(key, (0, Decimal(0)))
                sold[key] = (quantity + sign * sale.quantity, amount + sign * sale.price * sale.quantity)
    best = [(*key, *net) for key, net in sold.items() if net[0] > 0 and net[1] >= 0]
    best.sort(key=lambda item: (item[0], -item[3], item[1]))
    by_currency = [list(group)[:10] for _, group in groupby(best, key=itemgetter(0))]
    return [
        (money, sku, quantity, format_amount(amount, money))
        for (money, sku, quantity, amount) in chain(*by_currency)
    ]


async def backdate(database: Database, by: timedelta) -> None:
    """Move all orders, transactions, events and movements into the past."""
    async with database.session() as session, session.transaction():
        await session.execute(AS_OWNER.replace("set ", "set local "))
        for table in ("orders", "transactions", "events", "movements"):
            await session.execute(f"update {table} set created_at = created_at - $1::interval", by)
        await session.execute(
            "update orders set updated_at = updated_at - $1::interval, "
            "fulfilled_at = fulfilled_at - $1::interval, cancelled_at = cancelled_at - $1::interval",
            by,
        )
