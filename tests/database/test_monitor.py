"""The monitor distinguishes a silent database from one that is slow, busy, full, or closed one connection."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import pytest
import uvloop
from structlog.testing import capture_logs

from service.database.database import Database
from service.database.monitor import (
    MISSED_RESPONSES_MAX,
    PROBE_INTERVAL_SECONDS,
    PROBE_TIMEOUT_SECONDS,
    RESPONSE_WAIT_SECONDS,
    DatabaseMonitor,
)
from service.errors import DatabaseUnavailable
from service.settings import Settings
from service.testing import database_url_for
from tests.support.app_helpers import connected, eventually
from tests.support.postgres_nodes import Node, node

NOTICED_SECONDS = PROBE_INTERVAL_SECONDS + (MISSED_RESPONSES_MAX + 1) * RESPONSE_WAIT_SECONDS
ANSWER_SECONDS = 1.0
SOME_BEATS = 5 * (PROBE_INTERVAL_SECONDS + MISSED_RESPONSES_MAX * RESPONSE_WAIT_SECONDS)
CUT = "select pg_terminate_backend($1, 5000)"


async def test_slow_statements_on_every_connection_are_not_an_outage(
    database: Database, settings: Settings
) -> None:
    slow = [database.fetchval("select pg_sleep($1)", SOME_BEATS) for _ in range(settings.pool_size)]
    with capture_logs() as logs:
        await asyncio.gather(*slow)
    assert logs == []


async def test_a_closed_connection_of_the_monitor_is_not_an_outage(database: Database) -> None:
    first = await monitor_backend(database)
    with capture_logs() as logs:
        slow = asyncio.create_task(database.fetchval("select pg_sleep($1)", SOME_BEATS))
        assert await database.fetchval(CUT, first)
        assert await monitor_backend(database, other_than=first)
        await slow
    assert logs == []


async def test_a_database_that_accepts_no_more_connections_is_not_down(
    database: Database, server_url: str
) -> None:
    first = await monitor_backend(database)
    name = await database.fetchval("select current_database()")
    async with connected(server_url) as admin:
        with capture_logs() as logs:
            await admin.execute(f"alter database {name} with allow_connections false")
            assert await database.fetchval(CUT, first)
            await asyncio.sleep(SOME_BEATS)
            assert await database.fetchval("select 1") == 1
            await admin.execute(f"alter database {name} with allow_connections true")
    assert logs == []


async def test_a_server_that_rejects_the_login_is_not_down_and_is_probed_less_often(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 3 * PROBE_INTERVAL_SECONDS
    monkeypatch.setattr("service.database.monitor.REJECTED_LOGIN_INTERVAL_SECONDS", seconds)
    logins: list[float] = []

    async def log_in() -> "asyncpg.Connection[asyncpg.Record]":
        logins.append(monotonic())
        return await asyncpg.connect(database_url_for(server_url, "unknown"))

    async def has_tried_twice() -> bool:
        return len(logins) == 2

    monitor = DatabaseMonitor(log_in, lambda: None)
    async with monitor.open():
        await eventually(has_tried_twice)
    assert logins[1] - logins[0] >= seconds
    assert not monitor.is_down


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize(
    "seconds", [2 * MISSED_RESPONSES_MAX * RESPONSE_WAIT_SECONDS, PROBE_TIMEOUT_SECONDS + 0.1]
)
def test_a_busy_event_loop_is_not_an_outage(
    settings: Settings, loop_factory: Callable[[], asyncio.AbstractEventLoop], seconds: float
) -> None:
    """Run also on the event loop of `depot serve`, where timers fire before newly arrived data is read."""

    async def be_busy() -> None:
        async with Database(settings).open() as database:
            await monitor_backend(database)
            until = monotonic() + SOME_BEATS
            while monotonic() < until:
                time.sleep(seconds)  # noqa: ASYNC251  # that is the point
                await asyncio.sleep(0)

    with capture_logs() as logs, asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(be_busy())
    assert logs == []


async def monitor_backend(database: Database, other_than: int = 0) -> int:
    """Return the backend of the monitor's connection, once it has one."""
    connection: Any = None

    async def connected() -> bool:
        nonlocal connection
        connection = database.monitor._connection
        return connection is not None and connection.get_server_pid() != other_than

    await eventually(connected)
    return int(connection.get_server_pid())


# With a PostgreSQL of its own, since its processes are stopped.


@pytest.fixture
def server(home: Path) -> Iterator[Node]:
    with node(home) as server:
        yield server


@pytest.fixture
async def narrow(server: Node, tmp_path: Path) -> AsyncIterator[Database]:
    """A database of one connection in each pool."""
    settings = Settings(database_url=server.url, home=tmp_path, pool_size=1, records_pool_size=1)
    async with Database(settings).open() as database:
        await monitor_backend(database)
        await database.fetchval("select 1")  # so that the pool has its connection
        yield database


async def test_silence_of_the_server_ends_running_statements_and_waits_for_a_connection(
    server: Node, narrow: Database
) -> None:
    async def use_a_session() -> None:
        async with narrow.orm_session() as session:
            await session.connection()

    server.suspend()
    silent_at = monotonic()
    tasks = [narrow.fetchval("select 1"), narrow.fetchval("select 1"), use_a_session(), narrow.connect()]
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert monotonic() - silent_at < ANSWER_SECONDS
    assert isinstance(failures[0], asyncpg.PostgresConnectionError)
    assert {type(failure) for failure in failures[1:]} == {DatabaseUnavailable}
    server.resume()
    await eventually(lambda: back(narrow))
    assert await narrow.fetchval("select 1") == 1
    await use_a_session()


async def test_while_it_is_down_everything_is_rejected_immediately(server: Node, narrow: Database) -> None:
    server.suspend()
    await eventually(lambda: is_down(narrow))
    started = monotonic()
    for _ in range(100):
        for use in (narrow.fetchval("select 1"), narrow.connect()):
            with pytest.raises(DatabaseUnavailable):
                await use
    assert monotonic() - started < NOTICED_SECONDS
    server.resume()
    await eventually(lambda: back(narrow))


async def test_going_down_and_coming_up_are_logged_once_each(server: Node, narrow: Database) -> None:
    with capture_logs() as logs:
        server.kill()
        await eventually(lambda: is_down(narrow))
        await asyncio.sleep(PROBE_TIMEOUT_SECONDS)
        server.start()
        await eventually(lambda: back(narrow))
    assert [line["event"] for line in logs] == ["database_down", "database_up"]


async def is_down(database: Database) -> bool:
    return database.monitor.is_down


async def back(database: Database) -> bool:
    return not database.monitor.is_down
