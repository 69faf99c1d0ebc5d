"""Connections: which server they go to, and which are not kept."""

import asyncio
from pathlib import Path

from msgspec.structs import replace
from sqlalchemy import text

from replies import refused
from service.db import Database
from service.settings import Settings
from service.testing import at
from shop import connected, running


async def test_connections_to_a_server_that_has_become_a_standby_are_not_kept(
    settings: Settings, database_url: str, server_url: str, key: str
) -> None:
    narrow = replace(settings, pool_size=1, records_pool_size=1)
    name = Path(database_url.partition("?")[0]).name
    async with connected(server_url) as admin:
        await admin.execute(f"alter database {name} set default_transaction_read_only = on")
        async with running(narrow, key) as client:
            new = {"json": {"sku": "A", "name": "Bolt", "price": "1.00"}}
            refused(await client.post("/items", **new), 503, "DATABASE_UNAVAILABLE")
            refused(await client.put("/resources/a", json={"status": "on"}), 503, "DATABASE_UNAVAILABLE")
            await admin.execute(f"alter database {name} reset default_transaction_read_only")
            assert (await client.post("/items", **new)).status_code == 201
            assert (await client.put("/resources/a", json={"status": "on"})).status_code == 201


async def test_requests_go_through_a_pooler_and_what_listens_goes_past_it(
    settings: Settings, server_url: str
) -> None:
    pooled = replace(settings, direct_database_url=at(server_url, "postgres"))
    async with Database(pooled).open() as database, database.sessions() as session:
        name = "select current_database()"
        assert await database.fetchval(name) == await session.scalar(text(name)) != "postgres"
        async with database.own_connection() as connection:
            assert await connection.fetchval(name) == "postgres"


async def test_who_waits_for_a_connection_is_not_passed_by_who_comes_later(settings: Settings) -> None:
    served, several_wait = [], asyncio.Event()

    async def ask(database: Database, number: int) -> None:
        async with database.connection():
            served.append(number)

    async def come(database: Database, clients: asyncio.TaskGroup) -> None:
        for number in range(100):  # one in every turn of the loop, so that some come while it is given back
            clients.create_task(ask(database, number))
            await asyncio.sleep(0)
            if number == 10:
                several_wait.set()

    async with (
        Database(replace(settings, pool_size=1)).open() as database,
        asyncio.TaskGroup() as clients,
        database.connection(),
    ):
        clients.create_task(come(database, clients))
        await several_wait.wait()
    assert served == list(range(100))
