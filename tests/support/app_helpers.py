"""Helpers of tests with orders: an application with concurrent requests, items, orders and locks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

import asyncpg
import httpx

from service.app import create_app
from service.database.database import Database
from service.database.servers import Connection
from service.database.session import Session
from service.settings import Settings

Json = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")
MAX_WAIT_SECONDS = 10.0


@asynccontextmanager
async def running(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application in this event loop, and yield a client whose requests overlap.

    Litestar's AsyncTestClient waits for every reply before it sends the next request, so requests that are
    gathered with it never overlap.
    """
    app = create_app(settings)
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # Litestar types scopes more narrowly
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        app.lifespan(),
        httpx.AsyncClient(
            transport=transport, base_url="http://depot", headers=headers, timeout=60
        ) as client,
    ):
        yield client


async def in_session(
    database: Database,
    operation: Callable[Concatenate[Session, P], Awaitable[T]],
    *arguments: P.args,
    **options: P.kwargs,
) -> T:
    """Call an operation with a session of its own."""
    async with database.session() as session:
        return await operation(session, *arguments, **options)


@asynccontextmanager
async def pooled_connection(database: Database) -> AsyncIterator[Connection]:
    async with database.session() as session:
        yield await session.connection()


async def item(client: httpx.AsyncClient, quantity: int = 0, **fields: object) -> Json:
    """Create an item with a unique SKU."""
    content = {
        "sku": f"SKU-{uuid4().hex[:8]}",
        "name": "Bolt",
        "price": "9.99",
        "quantity": quantity,
        **fields,
    }
    created = await client.post("/items", json=content)
    assert created.status_code == 201, created.text
    return _json(created)


async def order(client: httpx.AsyncClient, *lines: tuple[Json, int], **fields: object) -> httpx.Response:
    """Order these quantities of these items."""
    named = [{"item_id": item["id"], "quantity": quantity} for item, quantity in lines]
    return await client.post("/orders", json={"customer_id": "c-1", "lines": named, **fields})


async def stock(client: httpx.AsyncClient, item: Json) -> int:
    return int(_json(await client.get(f"/items/{item['id']}"))["quantity"])


@asynccontextmanager
async def connected(database_url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def locked(database_url: str, item: Json) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """Lock the item until the block ends, so that orders of it wait."""
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute("select 1 from items where id = $1 for update", item["id"])
        yield connection


WAITING = """
select count(*) from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock' and pid <> pg_backend_pid()"""

ACTIVE_STATEMENTS = """
select count(*) from pg_stat_activity
where datname = current_database() and application_name = 'depot' and state <> 'idle'"""


async def wait_for_locks(connection: "asyncpg.Connection[asyncpg.Record]", how_many: int) -> None:
    """Return once that many connections of this database wait for a lock."""

    async def enough() -> bool:
        # Within a transaction the statistics are a snapshot, unless it is dropped.
        await connection.execute("select pg_stat_clear_snapshot()")
        return bool(await connection.fetchval(WAITING) >= how_many)

    await eventually(enough)


async def wait_until_idle(database_url: str) -> None:
    """Return once PostgreSQL has finished the statements of a killed process."""
    async with connected(database_url) as connection:

        async def idle() -> bool:
            return not await connection.fetchval(ACTIVE_STATEMENTS)

        await eventually(idle)


async def eventually(
    condition: Callable[[], Awaitable[bool]], max_wait_seconds: float = MAX_WAIT_SECONDS
) -> None:
    """Check more and more rarely, since each check takes processor time from what it waits for."""
    async with asyncio.timeout(max_wait_seconds):
        pause = 0.01
        while not await condition():
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, 0.05)


def _json(response: httpx.Response) -> Json:
    content: Json = response.json()
    return content
