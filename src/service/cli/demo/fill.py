"""Fill a database with demo data of a given size and age, as if the service had been running all along."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count

import asyncpg
from msgspec import Struct

from service.cli.demo import statements
from service.cli.demo.history import Batch, History, ItemRow
from service.database.database import Database
from service.reports.books import close_books
from service.settings import Settings

PROGRESS_INTERVAL = 10_000
SESSION_OPTIONS = """set statement_timeout = 0; set idle_in_transaction_session_timeout = 0;
set work_mem = '64MB'; set temp_buffers = '256MB'"""


class DemoConflict(Exception):
    """The database cannot take demo data; the message says why."""


class DemoSize(Struct, frozen=True):
    """Size of the demo data; its history ends now."""

    items: int
    orders: int
    days: int


async def fill(
    database: Database,
    settings: Settings,
    demo: DemoSize,
    on_progress: Callable[[str, int], None],
    *,
    only_if_empty: bool = False,
) -> None:
    """Load the demo data in one transaction, then close the books. Raises `DemoConflict`.

    `on_progress` receives the number of `items` and `orders` stored so far.
    """
    history = History(demo.items, demo.orders, demo.days, datetime.now(UTC))
    async with database.dedicated_connection() as connection:
        await connection.execute(SESSION_OPTIONS)
        if problem := await connection.fetchval(statements.FIND_CONFLICT, only_if_empty):
            raise DemoConflict(problem)
        async with connection.transaction():
            if await connection.fetchval(statements.IS_SUPERUSER):
                await connection.execute(statements.DISABLE_TRIGGERS)
            await connection.execute(statements.CREATE_STAGING_TABLES)
            await _load_items(connection, history, on_progress)
            await _load_orders(connection, history, on_progress)
            await connection.execute(statements.REOPEN_BOOKS, history.begin)
        await connection.execute("vacuum analyze")
    await close_books(database, settings)


async def _load_items(
    connection: "asyncpg.Connection[asyncpg.Record]",
    history: History,
    on_progress: Callable[[str, int], None],
) -> None:
    def item_rows() -> Iterator[ItemRow]:
        for number, row in enumerate(history.item_rows()):
            if number % PROGRESS_INTERVAL == 0:
                on_progress("items", number)
            yield row

    await connection.copy_records_to_table("demo_items", records=item_rows())
    await connection.execute("analyze demo_items")
    await connection.execute(statements.INSERT_ITEMS)
    on_progress("items", history.items)


async def _load_orders(
    connection: "asyncpg.Connection[asyncpg.Record]",
    history: History,
    on_progress: Callable[[str, int], None],
) -> None:
    """Store all batches; the next one is generated while PostgreSQL stores the current one."""
    batches, orders = history.batches(), 0
    batch: Batch | None = next(batches)
    while batch is not None:
        await connection.copy_records_to_table("demo_lines", records=batch.lines)
        await connection.copy_records_to_table("demo_movements", records=batch.movements)
        await connection.execute("analyze demo_lines; analyze demo_movements")
        storing = asyncio.create_task(connection.execute(statements.INSERT_ORDERS))
        next_batch = await asyncio.to_thread(next, batches, None)
        await storing
        await connection.execute(statements.TRUNCATE_STAGING_TABLES)
        orders += batch.orders
        on_progress("orders", orders)
        batch = next_batch
    final_states = zip(count(), history.stock, history.version, history.changed_at, strict=False)
    await connection.copy_records_to_table("demo_final_states", records=final_states)
    await connection.execute("analyze demo_final_states")
    await connection.execute(statements.UPDATE_ITEMS)
