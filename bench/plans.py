"""PostgreSQL's plans of the statements that must be fast on a large database."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import asyncpg

from bench.database import Database
from service.items.statements import LIST as LIST_ITEMS
from service.items.statements import READ_PAGES
from service.orders.statements import LIST as LIST_ORDERS
from service.orders.statements import LOCK_STOCK
from service.reports.statements import DAILY, TOP_ITEMS
from service.times import LAST_ID

OPTIONS = "explain (analyze, buffers, costs off, summary on)"


def explain(database: Database) -> str:
    return asyncio.run(_explain(database.url))


async def _explain(url: str) -> str:
    connection = await asyncpg.connect(
        url, server_settings={"timezone": "UTC", "max_parallel_workers_per_gather": "0"}
    )
    try:
        parts = [
            await _plan(connection, title, statement, *arguments)
            for title, statement, *arguments in await _statements(connection)
        ]
    finally:
        await connection.close()
    return "\n".join(parts)


async def _statements(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> list[tuple[str, str, *tuple[object, ...]]]:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    bounds: tuple[date, date, None] = (tomorrow - timedelta(days=30), tomorrow, None)
    last_item, last_order = [
        await connection.fetchval(f"select id from {table} order by id offset 50 limit 1")
        for table in ("items", "orders")
    ]
    ids = [row["id"] for row in await connection.fetch("select id from items order by id desc limit 2")]
    return [
        ("The report of 30 days: by day", DAILY, *bounds),
        ("The report of 30 days: what sold best", TOP_ITEMS, *bounds),
        ("GET /items, the first page", READ_PAGES, [False], [LAST_ID], [51]),
        ("GET /items, the last page", READ_PAGES, [False], [last_item], [51]),
        ("GET /items?q=hex bolt M17", LIST_ITEMS.statement(["q"]), "hex bolt M17", 51),
        ("GET /items?q=bolt", LIST_ITEMS.statement(["q"]), "bolt", 51),
        ("GET /orders, the first page", LIST_ORDERS.statement([]), 51),
        ("GET /orders, the last page", LIST_ORDERS.statement(["after"]), last_order, 51),
        ("GET /orders?status=cancelled, the first page", LIST_ORDERS.statement(["status"]), "cancelled", 51),
        ("Placing an order: its items locked", LOCK_STOCK, ids, []),
    ]


async def _plan(
    connection: "asyncpg.Connection[asyncpg.Record]", title: object, statement: str, *arguments: object
) -> str:
    """Return the plan of a second execution, with a warm cache."""
    for _ in range(2):
        rows = await connection.fetch(f"{OPTIONS} {statement}", *arguments)
    return f"== {title}\n\n" + "\n".join(str(row[0]) for row in rows) + "\n"
