"""Reports, exports and `depot doctor` read from a standby, which may be behind or down."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from litestar.testing import AsyncTestClient
from msgspec.structs import replace

from service.app import create_app
from service.cli.doctor.run import run_checks
from service.database import migrate
from service.database.database import Database
from service.database.session import Session
from service.database.url import standby_settings
from service.settings import Settings
from service.testing import mint
from tests.support.app_helpers import connected, eventually, item, order, running
from tests.support.postgres_nodes import Node, replicated

Pair = tuple[Node, Node]
REPORT = "/reports/financial"
QUANTITIES = "every item's quantity equals the sum of its movements"


@pytest.fixture(scope="module")
def pair(depot_scratch: Path) -> Iterator[Pair]:
    with replicated(depot_scratch) as servers:
        yield servers


@pytest.fixture
def settings(pair: Pair, tmp_path: Path) -> Settings:
    primary, copy = pair
    return Settings(database_url=primary.url, read_database_url=copy.url, home=tmp_path)


@pytest.fixture
async def key(settings: Settings) -> str:
    return await mint(settings, "admin")


@pytest.fixture
async def client(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with running(settings, key) as client:
        yield client


async def execute(server: Node, statement: str) -> None:
    async with connected(server.url) as connection:
        await connection.execute(statement)


@asynccontextmanager
async def paused(copy: Node) -> AsyncIterator[None]:
    """Keep the standby from applying changes until the block ends."""
    async with connected(copy.url) as connection:
        await connection.execute("select pg_wal_replay_pause()")

        async def is_paused() -> bool:
            return bool(await connection.fetchval("select pg_get_wal_replay_pause_state()") == "paused")

        await eventually(is_paused)
    try:
        yield
    finally:
        await execute(copy, "select pg_wal_replay_resume()")


async def sell(client: httpx.AsyncClient) -> None:
    assert (await order(client, (await item(client, 5), 1))).status_code == 201


async def report(client: httpx.AsyncClient) -> tuple[int, str | None]:
    """Return the number of orders in the report, and its age."""
    reply = await client.get(REPORT)
    assert reply.status_code == 200, reply.text
    totals = reply.json()["report"]["totals"]
    return totals[0]["orders"] if totals else 0, reply.headers.get("X-Data-Age")


async def caught_up(client: httpx.AsyncClient) -> int:
    """Return the number of orders as soon as the standby has all of them."""

    async def is_current() -> bool:
        return (await report(client))[1] == "0"

    await eventually(is_current)
    return (await report(client))[0]


async def test_a_report_comes_from_the_standby_and_says_how_far_it_may_be_behind(
    pair: Pair, client: httpx.AsyncClient
) -> None:
    await sell(client)
    before = await caught_up(client)
    async with paused(pair[1]):
        await sell(client)
        orders, age = await report(client)
        assert orders == before
        assert int(age or 0) >= 1
    assert await caught_up(client) == before + 1


async def test_a_report_comes_from_the_primary_while_the_standby_is_down(
    pair: Pair, client: httpx.AsyncClient
) -> None:
    await sell(client)
    before = await caught_up(client)
    pair[1].suspend()
    try:
        await sell(client)
        assert await report(client) == (before + 1, None)
    finally:
        pair[1].resume()
    assert await caught_up(client) == before + 1


async def test_a_server_that_is_not_a_standby_is_not_read(pair: Pair, key: str, tmp_path: Path) -> None:
    primary = pair[0].url
    settings = Settings(database_url=primary, read_database_url=primary, home=tmp_path)
    async with running(settings, key) as client:
        await sell(client)
        orders, age = await report(client)
    assert orders >= 1
    assert age is None


async def test_a_standby_of_another_database_is_not_read(
    pair: Pair, settings: Settings, key: str, tmp_path: Path
) -> None:
    await execute(pair[0], "create database other")
    other = pair[0].url.removesuffix("postgres") + "other"
    await asyncio.to_thread(migrate.upgrade, Settings(database_url=other))
    mistaken = replace(settings, read_database_url=pair[1].url.removesuffix("postgres") + "other")
    of_other = replace(mistaken, database_url=other)
    async with running(of_other, await mint(of_other, "admin")) as client:
        await caught_up(client)
    async with running(mistaken, key) as client:
        await sell(client)
        orders, age = await report(client)
    assert orders >= 1
    assert age is None


async def test_an_export_reads_from_the_standby(pair: Pair, settings: Settings, key: str) -> None:
    async with AsyncTestClient(create_app(settings, worker=True)) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        await sell(client)
        await caught_up(client)
        async with paused(pair[1]):
            await sell(client)
            started = await client.post("/process", json={"kind": "report.export", "payload": {}})
            path = started.headers["Location"]
            async with client.stream("GET", f"{path}/events") as events:
                await events.aread()
        result = (await client.get(path)).json()["result"]
    assert result["data_age_seconds"] >= 1


async def failed_checks(settings: Settings) -> set[str]:
    async with Database(settings).open() as database:
        return {check async for check, findings in run_checks(database, settings) if findings}


async def test_doctor_checks_the_rows_of_the_standby(pair: Pair, settings: Settings, key: str) -> None:
    async with running(settings, key) as client:
        await sell(client)
        await caught_up(client)
    async with paused(pair[1]):
        await execute(pair[0], "update items set quantity = quantity + 1")
        assert QUANTITIES not in await failed_checks(settings)
        assert QUANTITIES in await failed_checks(replace(settings, read_database_url=None))
    await execute(pair[0], "update items set quantity = quantity - 1")


async def test_a_read_that_takes_too_long_is_not_repeated_on_the_primary(settings: Settings) -> None:
    servers: list[bool] = []

    async def sleep(reader: Session) -> None:
        servers.append(await reader.fetchval("select pg_is_in_recovery()"))
        await reader.fetchval("select pg_sleep(5)")

    async with (
        Database(replace(settings, statement_timeout_seconds=0.1)).open() as database,
        database.session() as session,
    ):
        with pytest.raises(asyncpg.QueryCanceledError):
            await session.read_from_standby(sleep)
    assert servers == [True]


async def test_a_read_that_the_standby_gives_up_is_repeated_on_the_primary(settings: Settings) -> None:
    async def conflict(reader: Session) -> bool:
        if is_standby := await reader.fetchval("select pg_is_in_recovery()"):
            raise asyncpg.SerializationError("canceling statement due to conflict with recovery")
        return bool(is_standby)

    async with Database(settings).open() as database, database.session() as session:
        assert await session.read_from_standby(conflict) == (False, None)


def test_a_standby_is_required_unless_the_url_says_otherwise(settings: Settings) -> None:
    assert standby_settings(Settings(database_url="postgresql://db/depot")) is None
    found = standby_settings(settings)
    assert found is not None
    assert str(found.database_url).endswith("?target_session_attrs=standby")


async def test_a_standby_that_was_promoted_is_not_read_any_more(
    pair: Pair, client: httpx.AsyncClient
) -> None:
    """The last test of this module, because there is no standby after it."""
    await sell(client)
    before = await caught_up(client)
    pair[1].promote()
    await sell(client)
    assert await report(client) == (before + 1, None)
