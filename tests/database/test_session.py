"""A session takes a connection for its first statement, and always gives it back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from uuid import UUID

import asyncpg
import httpx
import pytest
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from msgspec.structs import replace
from sqlalchemy import text

from service.app import create_app
from service.database.database import Database
from service.settings import Settings
from tests.support import s3_server
from tests.support.app_helpers import pooled_connection, running

PID = "select pg_backend_pid()"
INSERT = "insert into secrets (name, value) values ($1, repeat('x', 32)::bytea)"
NAMES = "select coalesce(array_agg(name order by name), '{}') from secrets where name like 'test-%'"
WITHOUT_SESSION = {
    "place_order": "the placement queue places many orders with one session",
    "get_key": "the key of a request is known before its handler runs",
    "get_metrics": "metrics are read on a dedicated connection, so that a busy pool does not hide them",
}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49"
    "444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


async def test_a_session_without_statements_takes_no_connection(database: Database) -> None:
    async with database.session():
        assert database.pool.in_use == 0


async def test_a_session_keeps_its_connection_until_it_ends(database: Database) -> None:
    async with database.session() as session:
        first = await session.fetchval(PID)
        async with pooled_connection(database):  # so that another one would be taken
            assert await session.fetchval(PID) == first
        assert database.pool.in_use == 1
    assert database.pool.in_use == 0


async def test_a_statement_outside_a_transaction_commits(database: Database) -> None:
    async with database.session() as session:
        await session.execute(INSERT, "test-a")
        assert await database.fetchval(NAMES) == ["test-a"]


async def test_a_transaction_commits_together_and_its_savepoint_is_rolled_back_alone(
    database: Database,
) -> None:
    async with database.session() as session, session.transaction():
        await session.execute(INSERT, "test-a")
        with suppress(asyncpg.UniqueViolationError):
            async with session.transaction():
                await session.execute(INSERT, "test-b")
                await session.execute(INSERT, "test-a")
        assert await database.fetchval(NAMES) == []
    assert await database.fetchval(NAMES) == ["test-a"]


async def test_a_transaction_is_rolled_back_on_an_exception(database: Database) -> None:
    with pytest.raises(InterruptedError):
        async with database.session() as session, session.transaction():
            await session.execute(INSERT, "test-a")
            raise InterruptedError
    assert await database.fetchval(NAMES) == []
    assert database.pool.in_use == 0


async def test_a_session_that_ends_within_a_transaction_rolls_it_back(database: Database) -> None:
    async with database.session() as session:
        await session.execute("begin")
        await session.execute(INSERT, "test-a")
    assert await database.fetchval(NAMES) == []


async def test_a_connection_with_a_cancelled_statement_is_discarded_although_the_error_was_handled(
    database: Database,
) -> None:
    async with database.session() as session:
        before = await session.fetchval(PID)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await session.fetchval("select pg_sleep(60)")
    assert await database.fetchval(PID) != before


async def test_responses_are_counted_although_the_caller_raises_afterwards(database: Database) -> None:
    before = database.monitor.responses
    with pytest.raises(InterruptedError):
        async with database.session() as session:
            await session.fetchval("select 1")
            raise InterruptedError
    with pytest.raises(InterruptedError):
        async with database.orm_session() as orm_session:
            await orm_session.execute(text("select 1"))
            raise InterruptedError
    assert database.monitor.responses == before + 2


def test_every_handler_that_touches_the_database_has_one_session(settings: Settings) -> None:
    generators = {
        handler.handler_name: [
            name
            for name, provider in handler.resolve_dependencies().items()
            if name in handler.parsed_fn_signature.parameters and provider.has_async_generator_dependency
        ]
        for handler in handlers(create_app(settings))
    }
    private = {handler.handler_name for handler in handlers(create_app(settings)) if "scope" in handler.opt}
    assert {name for name in generators if name not in private and generators[name]} == set()
    assert {name: generators[name] for name in private - set(WITHOUT_SESSION)} == {
        name: ["session"] for name in private - set(WITHOUT_SESSION)
    }


def test_litestar_starts_no_tasks_for_the_dependencies_of_a_handler(settings: Settings) -> None:
    """It does so for every handler with more than one, which takes longer than the rest of a simple read."""
    for handler in handlers(create_app(settings)):
        used = handler.resolve_dependencies().keys() & handler.parsed_fn_signature.parameters.keys()
        assert len(used) <= 1, handler.handler_name


def test_no_handler_has_the_database_itself(settings: Settings) -> None:
    for handler in handlers(create_app(settings)):
        types = [parameter.annotation for parameter in handler.parsed_fn_signature.parameters.values()]
        assert Database not in types, handler.handler_name


def handlers(app: Litestar) -> list[HTTPRouteHandler]:
    return [
        handler
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler) and handler.handler_name != "options_handler"
    ]


@pytest.fixture
async def hanging_store(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """A blob store that accepts connections and never replies; the event says that one has come."""
    asked, over, writers = asyncio.Event(), asyncio.Event(), []

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        asked.set()
        await over.wait()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for name, value in s3_server.account(endpoint).items():
        monkeypatch.setenv(name, value)
    async with server:
        yield asked
        over.set()
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def test_a_request_that_waits_for_the_blob_store_holds_no_connection(
    settings: Settings, key: str, hanging_store: asyncio.Event
) -> None:
    narrow = replace(settings, pool_size=1, blob_url=s3_server.new_url())
    file = {"file": ("a.png", PNG, "image/png")}
    async with running(narrow, key) as client, asyncio.timeout(10):
        upload = asyncio.create_task(
            client.post("/documents", files=file, headers={"Idempotency-Key": "one"})
        )
        await hanging_store.wait()
        assert (await client.get("/items")).status_code == 200
        upload.cancel()
        await asyncio.wait({upload})


async def test_a_request_that_is_rejected_before_its_first_statement_waits_for_no_connection(
    settings: Settings, key: str
) -> None:
    app = create_app(replace(settings, pool_size=1))
    async with app.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        await client.get("http://depot/items")  # the key is known now
        sessions = app.dependencies["session"].dependency()  # type: ignore[union-attr,operator]
        async with aclosing(sessions), asyncio.timeout(0.3):
            await (await anext(sessions)).connection()
            reply = await client.patch(f"http://depot/items/{UUID(int=0)}", json={})
            assert reply.json()["error"]["code"] == "NO_FIELDS"
