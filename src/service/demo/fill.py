"""Fills a database with a shop of some size and age, as if the service had run all the time."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count

import asyncpg
from msgspec import Struct

from service.db import Database
from service.demo import statements
from service.demo.history import Batch, History, Ware
from service.reports.books import close_books
from service.settings import Settings

WARES_AT_ONCE = 10_000
UNHURRIED = """set statement_timeout = 0; set idle_in_transaction_session_timeout = 0;
set work_mem = '64MB'; set temp_buffers = '256MB'"""


class InTheWay(Exception):
    """Something that is there already."""


class Demo(Struct, frozen=True):
    """How much of it. The past ends now."""

    items: int
    orders: int
    days: int


async def fill(
    database: Database, settings: Settings, demo: Demo, on_progress: Callable[[str, int], None]
) -> None:
    """All of it, or nothing should this fail; then close the books. Raises `InTheWay`.

    `on_progress` gets the numbers of `items` and `orders` stored so far.
    """
    history = History(demo.items, demo.orders, demo.days, datetime.now(UTC))
    async with database.own_connection() as connection:
        await connection.execute(UNHURRIED)
        if problem := await connection.fetchval(statements.IN_THE_WAY):
            raise InTheWay(problem)
        async with connection.transaction():
            if await connection.fetchval(statements.IS_SUPERUSER):
                await connection.execute(statements.UNCHECKED)
            await connection.execute(statements.STAGE)
            await _stock(connection, history, on_progress)
            await _trade(connection, history, on_progress)
            await connection.execute(statements.REOPEN_BOOKS, history.begin)
        await connection.execute("vacuum analyze")
    await close_books(database, settings)


async def _stock(
    connection: "asyncpg.Connection[asyncpg.Record]",
    history: History,
    on_progress: Callable[[str, int], None],
) -> None:
    def wares() -> Iterator[Ware]:
        for number, ware in enumerate(history.wares()):
            if number % WARES_AT_ONCE == 0:
                on_progress("items", number)
            yield ware

    await connection.copy_records_to_table("wares", records=wares())
    await connection.execute("analyze wares")
    await connection.execute(statements.STOCK)
    on_progress("items", history.items)


async def _trade(
    connection: "asyncpg.Connection[asyncpg.Record]",
    history: History,
    on_progress: Callable[[str, int], None],
) -> None:
    """The next batch is imagined while PostgreSQL stores this one."""
    batches, orders = history.batches(), 0
    batch: Batch | None = next(batches)
    while batch is not None:
        await connection.copy_records_to_table("sold", records=batch.sold)
        await connection.copy_records_to_table("moved", records=batch.moved)
        await connection.execute("analyze sold; analyze moved")
        storing = asyncio.create_task(connection.execute(statements.FILL))
        following = await asyncio.to_thread(next, batches, None)
        await storing
        await connection.execute(statements.EMPTY)
        orders += batch.orders
        on_progress("orders", orders)
        batch = following
    ends = zip(count(), history.stock, history.version, history.changed_at, strict=False)
    await connection.copy_records_to_table("ends", records=ends)
    await connection.execute("analyze ends")
    await connection.execute(statements.END)
