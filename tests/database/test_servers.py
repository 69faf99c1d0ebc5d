"""`DATABASE_URL` may name several servers; the one that accepts writes is found, whatever the others do."""

import asyncio
from asyncio import Task
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy import text

from service.database import migrate
from service.database.database import SCHEMA, Database
from service.database.errors import DATABASE_ERRORS
from service.database.servers import NEXT_SERVER_SECONDS, Connection, ServerList, split_servers
from service.errors import DatabaseUnavailable
from service.settings import Settings
from tests.support.app_helpers import connected, eventually
from tests.support.postgres_nodes import Node, node, standby

SINGLE = {
    "postgresql://u:p@h/db?sslmode=require": ["postgresql://u:p@h/db?sslmode=require"],
    "postgresql:///db": ["postgresql:///db"],
    "postgres://u:p%40@h1,h2:5433/db?a=b": [
        "postgres://u:p%40@h1/db?a=b",
        "postgres://u:p%40@h2:5433/db?a=b",
    ],
    "postgresql://[::1]:5432,[::2]:5433/db": ["postgresql://[::1]:5432/db", "postgresql://[::2]:5433/db"],
    "postgresql://u@/db?host=/run/a,/run/b&port=1,2": [
        "postgresql://u@/db?host=%2Frun%2Fa&port=1",
        "postgresql://u@/db?host=%2Frun%2Fb&port=2",
    ],
    "postgresql://u@/db?host=a,b&port=5": [
        "postgresql://u@/db?host=a&port=5",
        "postgresql://u@/db?host=b&port=5",
    ],
    "postgresql://u@/db?host=a,b": ["postgresql://u@/db?host=a", "postgresql://u@/db?host=b"],
    "postgresql://u@/db?host=a,b&port=1,2,3": ["postgresql://u@/db?host=a,b&port=1,2,3"],
}


@pytest.mark.parametrize("url", SINGLE)
def test_a_url_of_several_servers_is_split_into_one_url_each(url: str) -> None:
    assert split_servers(url) == SINGLE[url]


@pytest.fixture
def pair(home: Path) -> Iterator[tuple[Node, Node]]:
    with node(home) as primary, standby(home, primary) as copy:
        yield primary, copy


def forms(first: Node, second: Node) -> list[str]:
    """The two ways to name both servers."""
    wanted = "target_session_attrs=read-write"
    return [
        f"postgresql://postgres@127.0.0.1:{first.port},127.0.0.1:{second.port}/postgres?{wanted}",
        f"postgresql://postgres@/postgres?host=127.0.0.1,127.0.0.1&port={first.port},{second.port}&{wanted}",
    ]


async def test_the_server_that_accepts_writes_is_found(pair: tuple[Node, Node]) -> None:
    primary, copy = pair
    for url in (*forms(primary, copy), *forms(copy, primary)):
        connection = await ServerList(url).connect(2)
        assert await connection.fetchval("show port") == str(primary.port)
        await connection.close()


async def test_one_address_that_leads_to_a_standby_is_not_used(pair: tuple[Node, Node]) -> None:
    """A proxy or a name may lead to a former primary for a moment."""
    url = pair[1].url
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await ServerList(url).connect(2)
    connection = await ServerList(f"{url}?target_session_attrs=any").connect(2)
    await connection.close()


async def test_a_new_primary_does_not_confirm_what_the_former_one_showed(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    primary, copy = pair
    for server, name in product(pair, ("synchronous_standby_names = '*'", "synchronous_commit = local")):
        await run_on(server, f"alter system set {name}")
        await run_on(server, "select pg_reload_conf()")
    async with Database(Settings(database_url=forms(*pair)[0], home=tmp_path)).open() as database:
        await database.commits.join()
        primary.kill()
        copy.promote()
        await eventually(lambda: answers(database))
        with pytest.raises(DatabaseUnavailable):
            await database.commits.join()
        await database.commits.join()


async def run_on(server: Node, statement: str) -> None:
    async with connected(server.url) as connection:
        await connection.execute(statement)


async def answers(database: Database) -> bool:
    with suppress(*DATABASE_ERRORS):
        return bool(await database.fetchval("select 1"))
    return False


async def test_migrations_and_both_pools_find_the_server_that_accepts_writes(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    primary, copy = pair
    settings = Settings(database_url=forms(copy, primary)[0], home=tmp_path)
    await asyncio.to_thread(migrate.upgrade, settings)
    async with Database(settings).open() as database, database.orm_session() as session:
        for fetch in (database.fetchval, lambda query: session.scalar(text(query))):
            assert await fetch("select version_num from schema_version") == SCHEMA
            assert await fetch("show transaction_read_only") == "off"


async def test_a_silent_server_does_not_use_up_the_time_of_the_others(pair: tuple[Node, Node]) -> None:
    primary, copy = pair
    hosts = ServerList(forms(copy, primary)[0])
    copy.suspend()
    for seconds in (2.0, 0.5):  # the second time the one that worked is asked first
        started = monotonic()
        connection = await hosts.connect(2)
        assert monotonic() - started < seconds
        await connection.close()


async def test_a_standby_that_is_promoted_beside_a_silent_server_is_found(pair: tuple[Node, Node]) -> None:
    primary, copy = pair
    primary.suspend()
    connecting = asyncio.create_task(ServerList(forms(primary, copy)[0]).connect(10, repeat=True))
    await asyncio.sleep(NEXT_SERVER_SECONDS * 2)  # the standby has answered that it accepts no writes
    await asyncio.to_thread(copy.promote)
    promoted_at = monotonic()
    connection = await connecting
    assert monotonic() - promoted_at < 2
    assert await connection.fetchval("show port") == str(copy.port)
    await connection.close()
    primary.resume()


async def test_a_server_whose_network_returns_is_found_soon(pair: tuple[Node, Node]) -> None:
    """The first attempt is lost: what it sent stays unanswered."""
    primary, _ = pair
    lost: list[asyncio.StreamWriter] = []
    proxied: list[Task[None]] = []

    async def drop_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lost.append(writer)
        if len(lost) > 1:
            there, back = await asyncio.open_connection("127.0.0.1", primary.port)
            proxied.extend(asyncio.create_task(pipe(*ends)) for ends in ((reader, back), (there, writer)))

    async with await asyncio.start_server(drop_first, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        started_at = monotonic()
        servers = ServerList(f"postgresql://postgres@127.0.0.1:{port}/postgres")
        connection = await servers.connect(10, repeat=True)
        assert monotonic() - started_at < 2
        connection.terminate()
        for writer in lost:
            writer.close()
        await asyncio.wait(proxied)


async def test_a_pool_does_not_repeat_logins_at_a_server_that_is_slow(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers, logins, connect = 8, list[str](), asyncpg.connect

    async def connect_slowly(url: str, **options: Any) -> Connection:
        logins.append(url)
        await asyncio.sleep(0.5)
        connection: Connection = await connect(url, **options)
        return connection

    monkeypatch.setattr("service.database.servers.TRY_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(asyncpg, "connect", connect_slowly)
    async with Database(replace(settings, pool_size=callers)).open() as database:
        await asyncio.gather(*(database.fetchval("select 1") for _ in range(callers)))
    assert len(logins) < 2 * callers


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_without_a_server_that_accepts_writes_there_is_no_connection(pair: tuple[Node, Node]) -> None:
    primary, copy = pair
    primary.kill()
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await ServerList(forms(primary, copy)[0]).connect(2)


async def test_a_deposed_primary_that_still_accepts_writes_is_left(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    primary, copy = pair
    settings = Settings(database_url=forms(primary, copy)[0], home=tmp_path)
    async with Database(settings).open() as database:
        assert await port(database) == primary.port
        copy.promote()
        await eventually(lambda: uses(database, copy))
        opened = await database.connect()
        assert await opened.fetchval("show port") == str(copy.port)
        await opened.close()
    async with asyncio.timeout(2):
        connection = await asyncpg.connect(primary.url)
        assert await connection.fetchval("show transaction_read_only") == "off"
        await connection.close()


async def port(database: Database) -> int:
    return int(await database.fetchval("show port"))


async def uses(database: Database, server: Node) -> bool:
    with suppress(asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
        return await port(database) == server.port
    return False
