"""The pool: which connection is acquired, and which are never reused."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from service.database import pool as pools
from service.database.database import Database
from service.database.pool import Pool
from service.database.servers import Connection
from service.settings import Settings
from tests.support.app_helpers import connected, eventually, pooled_connection

PID = "select pg_backend_pid()"
SLEEPING = "select count(*) from pg_stat_activity where query like '%pg_sleep(60)' and state = 'active'"
END_OTHERS = """
select pg_terminate_backend(pid, 5000) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()"""


async def test_the_connection_that_was_used_last_is_reused_first(database: Database) -> None:
    async with pooled_connection(database) as first, pooled_connection(database) as second:
        pass  # the second is given back first
    async with pooled_connection(database) as next_one:
        assert next_one is first is not second


async def test_no_more_connections_are_opened_than_allowed(database: Database, settings: Settings) -> None:
    await asyncio.gather(*(database.fetchval("select pg_sleep(0.01)") for _ in range(5 * settings.pool_size)))
    assert database.pool.in_use == 0
    assert database.pool.idle == settings.pool_size


async def test_a_terminated_connection_is_not_reused(database: Database, database_url: str) -> None:
    before = await database.fetchval(PID)
    async with connected(database_url) as admin:
        await admin.fetch(END_OTHERS)

    async def noticed() -> bool:
        return not database.pool.can_acquire_now

    await eventually(noticed)
    assert await database.fetchval(PID) != before


async def test_a_cancelled_statement_ends_and_its_connection_is_not_reused(
    database: Database,
) -> None:
    before = await database.fetchval(PID)
    sleeper = asyncio.create_task(database.fetchval("select pg_sleep(60)"))
    await asyncio.sleep(0)
    assert database.pool.in_use == 1
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert await database.fetchval(PID) != before
    assert database.pool.in_use == 0

    async def ended() -> bool:
        return not await database.fetchval(SLEEPING)

    await eventually(ended)


async def test_a_connection_that_is_in_a_transaction_is_not_reused(database: Database) -> None:
    async with pooled_connection(database) as connection:
        await connection.execute("begin")
    async with pooled_connection(database) as next_one:
        assert next_one is not connection
    await eventually(partial(is_closed, connection))


async def test_a_connection_idle_for_too_long_is_not_reused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pooled_connection(database) as first:
        pass
    monkeypatch.setattr(pools, "IDLE_SECONDS_MAX", 0.0)
    async with pooled_connection(database) as second:
        assert second is not first
    await eventually(partial(is_closed, first))


async def test_surplus_connections_are_closed_after_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pooled_connection(database) as busy:
        async with pooled_connection(database) as spare:
            pass
        monkeypatch.setattr(pools, "IDLE_SECONDS_MAX", 0.0)
    await eventually(partial(is_closed, spare))
    assert not busy.is_closed()


async def test_a_failed_connect_returns_its_slot(database: Database) -> None:
    failures = iter([OSError("no route"), asyncio.CancelledError()])

    async def connect() -> Connection:
        for failure in failures:
            raise failure
        return await database.connect()

    pool = pool_of_one(database, connect)
    for error in (OSError, asyncio.CancelledError):
        with pytest.raises(error):
            await pool.acquire()
    pool.release(await pool.acquire())
    await pool.close()


async def test_closing_waits_for_connections_in_use(database: Database) -> None:
    pool = pool_of_one(database, database.connect)
    connection = await pool.acquire()
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    assert await connection.fetchval("select 1") == 1
    assert not closing.done()
    pool.release(connection)
    await closing
    assert connection.is_closed()


def pool_of_one(database: Database, connect: Callable[[], Awaitable[Connection]]) -> Pool:
    return Pool(connect, database.monitor, size_max=1, timeout_seconds=60)


async def is_closed(connection: Connection) -> bool:
    return connection.is_closed()
