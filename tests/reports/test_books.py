"""Closed days are added up once; whatever is late, early, twice or back-dated, reports stay exact."""

import asyncio
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.database.database import Database
from service.reports import books
from service.reports.books import close_books, close_until
from service.reports.financial import financial_report
from service.reports.statements import ITEM_ROLLUP_MISMATCHES, ROLLUP_MISMATCHES
from service.settings import Settings
from service.worker import SCHEDULES
from tests.support.app_helpers import connected, in_session
from tests.support.ledger_samples import Sale, by_day, top_items, write

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
EVER = (date(2020, 1, 1), date(2027, 1, 1))

BOOK = """
with placed as (
  insert into orders (id, status, customer_id, currency, total, version, created_at)
  values (uuidv7(), 'placed', 'c', 'USD', $1, 1, $2) returning id, created_at
)
insert into transactions (id, order_id, kind, amount, currency, created_at)
select uuidv7(), id, 'sale', $1, 'USD', created_at from placed"""


def sale(at: datetime, amount: str = "9.99", item: int = 1, refunded_at: datetime | None = None) -> Sale:
    return Sale(at, item, 1, Decimal(amount), "USD", refunded_at)


async def net_by_day(database: Database) -> list[tuple[str, str]]:
    """Return the date and net of each day."""
    return [
        (str(day.date), day.net) for day in (await in_session(database, financial_report, *EVER, None)).daily
    ]


async def closed(database: Database) -> datetime:
    until: datetime = await database.fetchval("select closed_until from books")
    return until


async def test_days_that_are_over_are_closed_and_read_from_their_sums(
    database: Database, database_url: str, settings: Settings
) -> None:
    today = datetime.now(UTC)
    ago = [today - timedelta(days=days) for days in (40, 1, 0)]
    await write(database_url, [sale(ago[0], "1.00", refunded_at=ago[1]), sale(ago[2], "4.00")])
    expected = [(str(ago[0].date()), "1.00"), (str(ago[1].date()), "-1.00"), (str(ago[2].date()), "4.00")]
    assert await net_by_day(database) == expected
    assert await close_books(database, settings) >= 40
    assert today - timedelta(hours=1.2) < await closed(database) <= datetime.now(UTC)
    assert await net_by_day(database) == expected
    assert await close_books(database, settings) == 0
    await database.fetch("delete from daily_sales where refunds > 0")
    assert await net_by_day(database) == [
        expected[0],
        expected[2],
    ]  # nobody asks the ledger about closed days


async def test_an_empty_ledger_has_nothing_to_close(database: Database, settings: Settings) -> None:
    assert await close_books(database, settings) == 0


async def test_a_day_stays_open_while_something_that_began_on_it_may_still_commit(
    database: Database, database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    midnight = datetime.combine(datetime.now(UTC).date(), time(), UTC)
    last_moment = midnight - timedelta(microseconds=1)
    await write(database_url, [sale(last_moment - timedelta(hours=1), "1.00")])
    async with connected(database_url) as slow:
        transaction = slow.transaction()
        await transaction.start()
        began_at = await slow.fetchval("select now()")
        # As if it had started just before midnight.
        monkeypatch.setattr(books, "MAX_CLOCK_SKEW", began_at - midnight + timedelta(microseconds=1))
        await slow.execute(BOOK, Decimal("2.00"), last_moment)
        await close_books(database, settings)
        assert await closed(database) < last_moment
        yesterday = str(last_moment.date())
        assert await net_by_day(database) == [(yesterday, "1.00")]
        await transaction.commit()
    assert await net_by_day(database) == [(yesterday, "3.00")]
    assert await close_books(database, settings) == 1
    assert await closed(database) == midnight
    assert await net_by_day(database) == [(yesterday, "3.00")]


async def test_processes_that_close_the_books_concurrently_add_up_once(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "DAYS_PER_TRANSACTION", 2)
    sales = [sale(BEGIN + timedelta(days=number), f"{number}.00") for number in range(12)]
    await write(database_url, sales)
    async with Database(settings).open() as one, Database(settings).open() as other:
        counts = await asyncio.gather(*[close_books(database, settings) for database in (one, other) * 3])
        assert sum(counts) == -((BEGIN - await closed(one)) // timedelta(days=1))
        assert await net_by_day(one) == [
            (f"{BEGIN.date() + timedelta(days=n)}", f"{n}.00") for n in range(12)
        ]


async def test_a_sale_that_was_booked_on_a_closed_day_reopens_it(
    database: Database, database_url: str, settings: Settings
) -> None:
    at = datetime.now(UTC) - timedelta(days=3)
    await write(database_url, [sale(at, "1.00")])
    assert await close_books(database, settings) >= 3
    async with connected(database_url) as connection:
        await connection.execute(BOOK, Decimal("2.00"), at)
    assert await net_by_day(database) == [(str(at.date()), "1.00")]
    assert await close_books(database, settings) >= 3
    assert await net_by_day(database) == [(str(at.date()), "3.00")]
    assert await database.fetch(ROLLUP_MISMATCHES, date(1, 1, 1)) == []


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Pacific/Kiritimati"])
async def test_days_are_those_of_utc_wherever_the_database_is(
    zone: str, settings: Settings, database_url: str
) -> None:
    async with connected(database_url) as connection:
        name = await connection.fetchval("select current_database()")
        await connection.execute(f"alter database {name} set timezone = '{zone}'")
    edges = [datetime(2026, 3, 8), datetime(2026, 3, 29), datetime(2026, 4, 1), datetime(2028, 2, 29)]  # noqa: DTZ001
    moments = [
        edge.replace(tzinfo=UTC) + timedelta(microseconds=apart) for edge in edges for apart in (-1, 0, 9e9)
    ]
    sales = [sale(at, "1.00", refunded_at=at + timedelta(days=1)) for at in moments]
    whole = (date(2026, 1, 1), date(2029, 1, 1))
    async with Database(settings).open() as database:
        for closed_until in (None, moments[3], moments[4], datetime(2028, 12, 31, 5, tzinfo=UTC)):
            await write(database_url, sales, closed_until)
            found = (await in_session(database, financial_report, *whole, None)).daily
            assert [
                (str(day.date), day.currency, day.orders, day.sales, day.refunds, day.net) for day in found
            ] == by_day(sales, *whole, None)


def test_the_best_of_many_items_are_found_without_adding_up_all(
    settings: Settings, database_url: str, anyio_backend: str
) -> None:
    """More items and days than the other property has: some sell a lot on one day, others a little on all."""

    @given(st.integers(0, 2**32), st.sampled_from([0.0, 0.7, 1.5]), st.integers(0, 240), st.booleans())
    @hypothesis_settings(max_examples=12, deadline=None)
    def agree(seed: int, skew: float, closed_hours: int, ties: bool) -> None:
        sales = many(Random(seed), skew, ties)
        until = BEGIN + timedelta(hours=closed_hours)

        async def report() -> list[tuple[str, str, int, str]]:
            await write(database_url, sales, until)
            async with Database(settings).open() as database:
                top = (await in_session(database, financial_report, *whole, None)).top_items
            return [(item.currency, item.sku, item.quantity, item.amount) for item in top]

        assert asyncio.run(report()) == top_items(sales, *whole, None)

    whole = (BEGIN.date(), BEGIN.date() + timedelta(days=10))
    agree()


def many(random: Random, skew: float, ties: bool) -> list[Sale]:
    weights = [1 / (number + 1) ** skew for number in range(60)]
    return [
        Sale(
            at=(at := BEGIN + timedelta(seconds=random.randrange(10 * 86_400))),
            item=random.choices(range(60), weights)[0],
            quantity=random.randint(1, 3),
            price=Decimal(random.randint(1, 3) if ties else random.randint(0, 9_999)) / 100,
            currency=random.choice(["USD", "EUR"]),
            refunded_at=random.choice([None, None, at + timedelta(hours=random.randrange(1, 100))]),
        )
        for _ in range(300)
    ]


async def test_hours_of_a_day_are_added_to_it_once(database: Database, database_url: str) -> None:
    hours = [BEGIN + timedelta(hours=hour) for hour in range(30)]
    await write(database_url, [sale(at, "1.00", refunded_at=at + timedelta(hours=2)) for at in hours])
    expected = await net_by_day(database)
    async with connected(database_url) as connection:
        for hour in (1, 3, 3, 24, 25, 31, 40):
            await close_until(connection, BEGIN + timedelta(hours=hour))
            assert await net_by_day(database) == expected
            assert await database.fetch(ROLLUP_MISMATCHES, date(1, 1, 1)) == []
            assert await database.fetch(ITEM_ROLLUP_MISMATCHES) == []


def test_a_worker_closes_the_books_every_hour() -> None:
    (schedule,) = (schedule for schedule in SCHEDULES if schedule.run is close_books)
    assert schedule.cron == "6 * * * *"
