"""A server that accepts fewer connections than the pools want still serves all requests."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from sqlalchemy.engine import make_url

from service.database import pool
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import connected, eventually, running

CONNECTIONS = 8
SLOW = "select pg_sleep(0.05)"


@pytest.fixture
async def limited(settings: Settings, database_url: str) -> AsyncIterator[Settings]:
    """Settings of a user with few connections; for a superuser the limit does not hold."""
    role = f"limited_{make_url(database_url).database}"
    async with connected(database_url) as admin:
        await admin.execute(f"create role {role} login connection limit {CONNECTIONS}")
        await admin.execute(f"grant pg_read_all_data, pg_write_all_data to {role}")
        url = make_url(database_url).set(username=role).render_as_string()
        # A loaded machine needs more than the default second for 80 requests on 8 connections.
        yield replace(settings, database_url=url, pool_size=16, records_pool_size=4, pool_wait_seconds=15)
        await eventually(lambda: gone(admin, role))
        await admin.execute(f"drop role {role}")


async def gone(admin: "pool.Connection", role: str) -> bool:
    return not await admin.fetchval("select count(*) from pg_stat_activity where usename = $1", role)


async def test_requests_wait_for_a_connection_that_is_in_use(limited: Settings, key: str) -> None:
    async with running(limited, key) as client:
        requests = [client.get("/orders") for _ in range(40)]
        requests += [client.put(f"/resources/{number}", json={"status": "on"}) for number in range(40)]
        replies = await asyncio.gather(*requests)
    assert {reply.status_code for reply in replies} == {200, 201}


async def test_the_pool_grows_again_once_the_server_accepts_more(
    limited: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "REGROW_SECONDS", 0.05)
    role = make_url(limited.database_url or "").username
    async with connected(database_url) as admin, Database(limited).open() as database:
        await asyncio.gather(*(database.fetch(SLOW) for _ in range(limited.pool_size)))
        assert database.pool.idle <= CONNECTIONS
        await admin.execute(f"alter role {role} connection limit -1")

        async def grown() -> bool:
            await asyncio.gather(*(database.fetch(SLOW) for _ in range(limited.pool_size)))
            return database.pool.idle == limited.pool_size

        await eventually(grown)


async def test_a_connection_beside_the_pool_takes_one_from_it(limited: Settings) -> None:
    async with Database(limited).open() as database:
        await asyncio.gather(*(database.fetch(SLOW) for _ in range(limited.pool_size)))
        async with database.dedicated_connection() as connection:
            assert await connection.fetchval("select 1") == 1
        assert await database.fetchval("select 1") == 1
