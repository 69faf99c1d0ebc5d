"""Connections: the server that they go to, and the cases in which they are discarded."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy import text

from service.database.database import Database
from service.database.servers import Connection
from service.settings import Settings
from service.testing import database_url_for
from tests.support.app_helpers import connected, pooled_connection, running
from tests.support.reply_assertions import assert_refused


async def test_connections_to_a_server_that_has_become_a_standby_are_discarded(
    settings: Settings, database_url: str, server_url: str, key: str
) -> None:
    narrow = replace(settings, pool_size=1, records_pool_size=1)
    name = Path(database_url.partition("?")[0]).name
    async with connected(server_url) as admin:
        await admin.execute(f"alter database {name} set default_transaction_read_only = on")
        async with running(narrow, key) as client:
            new = {"json": {"sku": "A", "name": "Bolt", "price": "1.00"}}
            assert_refused(await client.post("/items", **new), 503, "DATABASE_UNAVAILABLE")
            assert_refused(
                await client.put("/resources/a", json={"status": "on"}), 503, "DATABASE_UNAVAILABLE"
            )
            await admin.execute(f"alter database {name} reset default_transaction_read_only")
            assert (await client.post("/items", **new)).status_code == 201
            assert (await client.put("/resources/a", json={"status": "on"})).status_code == 201


async def test_requests_go_through_a_pooler_and_listeners_bypass_it(
    settings: Settings, server_url: str
) -> None:
    pooled = replace(settings, direct_database_url=database_url_for(server_url, "postgres"))
    async with Database(pooled).open() as database, database.orm_session() as session:
        name = "select current_database()"
        assert await database.fetchval(name) == await session.scalar(text(name)) != "postgres"
        async with database.dedicated_connection() as connection:
            assert await connection.fetchval(name) == "postgres"


async def test_a_caller_that_is_cancelled_at_any_moment_leaves_no_connection_open(settings: Settings) -> None:
    async with (
        Database(settings).open() as database,
        pooled_connection(database),
    ):  # the only one there is so far
        for turns in range(1000):
            asking = asyncio.create_task(database.fetchval("select 1"))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not asking.cancel():
                break
            await asyncio.wait({asking})
            in_use = [connection for connection in database._connections if not connection.is_closed()]
            assert len(in_use) <= 2  # this one, and the monitor's
            assert database.pool.in_use == 1
        assert await asking == 1


async def test_a_connection_whose_setup_is_cancelled_is_closed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Connection] = []

    async def give_up(connection: Connection, *_: object, **__: object) -> None:
        made.append(connection)
        raise asyncio.CancelledError

    async with pooled_connection(database):  # the only one there is so far
        monkeypatch.setattr(asyncpg.Connection, "set_type_codec", give_up)
        with pytest.raises(asyncio.CancelledError):
            await database.fetchval("select 1")
    assert [connection.is_closed() for connection in made] == [True]


async def test_a_statement_that_does_not_end_is_terminated_at_shutdown(settings: Settings) -> None:
    async with Database(replace(settings, connect_timeout_seconds=0.5)).open() as database:
        sleeper = asyncio.create_task(database.fetchval("select pg_sleep(60)"))
        await asyncio.sleep(0)
    with pytest.raises(asyncpg.PostgresConnectionError):
        await sleeper


async def test_waiting_callers_get_connections_in_the_order_of_their_arrival(settings: Settings) -> None:
    served, several_wait = [], asyncio.Event()

    async def ask(database: Database, number: int) -> None:
        async with pooled_connection(database):
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
        pooled_connection(database),
    ):
        clients.create_task(come(database, clients))
        await several_wait.wait()
    assert served == list(range(100))


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be set forward."""

    skipped_seconds = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_seconds


def test_an_old_statement_needs_no_more_round_trips_than_a_new_one(settings: Settings) -> None:
    """asyncpg would prepare it again, and first close all others of its age one by one."""
    loop = SkippingLoop()
    prepared = "select count(*) from pg_prepared_statements where statement = 'select 7'"

    async def use_later() -> None:
        connection = await Database(settings).connect()
        await connection.fetchval("select 7")
        loop.skipped_seconds = 3600
        await asyncio.sleep(0.01)  # timers that are due run now
        assert await connection.fetchval(prepared) == 1
        await connection.close()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(use_later())
