"""Fills a database with a shop of some size and age, as if the service had run all the time."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import asyncpg
from msgspec import Struct

from service.db import Database
from service.demo import statements
from service.demo.history import Batch, History, Moved, Sold, Ware
from service.reports.books import close_books
from service.settings import Settings

WARES_AT_ONCE = 50_000


class InTheWay(Exception):
    """Something that is there already."""


class Demo(Struct, frozen=True):
    """How much of it. The past ends now; the same seed makes the same shop."""

    items: int
    orders: int
    days: int
    seed: int = 1


async def fill(
    database: Database, settings: Settings, demo: Demo, on_progress: Callable[[str, int], None]
) -> None:
    """All of it, or nothing should this fail; then close the books. `on_progress` gets orders imagined, items
    stocked and orders stored so far. Raises `InTheWay`.
    """
    until = datetime.now(UTC)
    async with database.own_connection() as connection:
        await connection.execute(
            "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set work_mem = '64MB'"
        )
        if problem := await connection.fetchval(statements.IN_THE_WAY):
            raise InTheWay(problem)
        async with connection.transaction():
            await connection.execute(statements.STAGE)
            await _stock(connection, await asyncio.to_thread(_ended, demo, until, on_progress), on_progress)
            await _trade(connection, _history(demo, until), on_progress)
        await connection.execute("vacuum analyze")
    await close_books(database, settings)


def _history(demo: Demo, until: datetime) -> History:
    return History(demo.items, demo.orders, demo.days, until, demo.seed)


def _ended(demo: Demo, until: datetime, on_progress: Callable[[str, int], None]) -> History:
    """Imagined once to know how the stock ends: items are written as they are in the end."""
    history, orders = _history(demo, until), 0
    for batch in history.batches():
        orders += batch.orders
        on_progress("imagined", orders)
    return history


async def _stock(
    connection: "asyncpg.Connection[asyncpg.Record]", ended: History, on_progress: Callable[[str, int], None]
) -> None:
    def wares() -> Iterator[Ware]:
        for ware in ended.wares():
            if ware.no % WARES_AT_ONCE == 0:
                on_progress("stocked", ware.no)
            yield ware

    await connection.copy_records_to_table("wares", records=wares())
    ends = zip(range(ended.items), ended.stock, ended.version, ended.changed_at, strict=True)
    await connection.copy_records_to_table("ends", records=ends)
    await connection.execute("analyze wares; analyze ends")
    await connection.execute(statements.STOCK)
    await connection.execute(statements.REOPEN_BOOKS, ended.begin.date())
    on_progress("stocked", ended.items)


async def _trade(
    connection: "asyncpg.Connection[asyncpg.Record]",
    history: History,
    on_progress: Callable[[str, int], None],
) -> None:
    """The next batch is imagined while PostgreSQL stores this one."""
    batches, orders = history.batches(), 0
    batch: Batch | None = next(batches)
    while batch is not None:
        await connection.copy_records_to_table("sold", records=batch.sold, columns=Sold._fields)
        await connection.copy_records_to_table("moved", records=batch.moved, columns=Moved._fields)
        storing = asyncio.create_task(connection.execute(statements.FILL))
        following = await asyncio.to_thread(next, batches, None)
        await storing
        await connection.execute(statements.EMPTY)
        orders += batch.orders
        on_progress("stored", orders)
        batch = following
