"""Health: what load balancers and people on call are told, and how soon, whatever the database does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from time import monotonic, time
from typing import Any

import httpx
import pytest
from litestar.testing import AsyncTestClient

from conftest import Client
from service.app import components_of, create_app
from service.auth.authenticator import EXPIRE_AFTER_SECONDS
from service.auth.store import create_key
from service.blobs import open_blob_store
from service.database import clock
from service.database.database import SCHEMA, Database
from service.health.controller import STATUS_TTL_SECONDS, VERSION, Probe
from service.settings import Settings
from tests.support.embedded_server import Server
from tests.support.reply_assertions import LEAK, assert_refused

ANSWER_SECONDS = 1.0
RECOVERY_SECONDS = 2.0
BEHIND = [
    "update schema_version set version_num = '0000'",
    "delete from schema_version",
    "drop table schema_version",
]
pytestmark = pytest.mark.usefixtures("own_app")  # its health is cached for a while


async def test_health_and_the_openapi_document_name_the_same_version_of_the_api(client: Client) -> None:
    described = (await client.get("/openapi.json")).json()
    version = described["info"]["x-depot-api-version"]
    assert version == "1"
    assert (await client.get("/health")).json()["depot_api_version"] == version
    assert "depot_api_version" in described["components"]["schemas"]["Health"]["required"]


async def test_a_healthy_service_says_what_it_depends_on(client: Client) -> None:
    reply = await client.get("/health")
    health = reply.json()
    assert (reply.status_code, health["status"], health["version"]) == (200, "healthy", VERSION)
    assert health["timestamp"].endswith("Z")
    assert health["dependencies"] == {"database": "connected", "storage": "connected", "queue": "connected"}


async def test_a_missing_blob_store_is_reported_and_the_service_stays_ready(
    client: Client, settings: Settings
) -> None:
    assert (await client.get("/health")).json()["status"] == "healthy"
    directory = settings.home / "blobs"
    moved = directory.rename(settings.home / "moved")
    health = await until_reported(client, "storage", "unreachable")
    assert health["status"] == "degraded"
    assert (await client.get("/health/ready")).status_code == 200
    moved.rename(directory)
    assert (await until_reported(client, "storage", "connected"))["status"] == "healthy"


async def test_work_that_no_worker_takes_is_reported(client: Client, database: Database) -> None:
    assert (await client.get("/health")).json()["dependencies"]["queue"] == "connected"
    await database.fetch(
        """insert into queue.pgqueuer (priority, status, entrypoint, execute_after)
           values (0, 'queued', 'job', now() - interval '61 seconds')"""
    )
    health = await until_reported(client, "queue", "delayed")
    assert health["status"] == "degraded"
    await database.fetch("update queue.pgqueuer set execute_after = now() + interval '1 hour'")
    await until_reported(client, "queue", "connected")


@pytest.mark.parametrize("skew", [-360.0, 360.0])
async def test_a_wrong_clock_is_reported(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    assert abs((await client.get("/health")).json()["clock_skew_seconds"]) < 1
    monkeypatch.setattr(clock, "time", lambda: time() + skew)
    async with AsyncTestClient(create_app(settings)) as skewed:
        health = (await skewed.get("/health")).json()
        assert health["clock_skew_seconds"] == pytest.approx(skew, abs=1)
        assert health["status"] == "degraded"
        assert (await skewed.get("/health/ready")).status_code == 200


async def test_a_live_and_ready_service_says_so(client: Client) -> None:
    assert (await client.get("/health/live")).json() == {"status": "alive"}
    assert (await client.get("/health/ready")).json() == {"status": "ready"}


@pytest.mark.parametrize("schema", BEHIND)
async def test_a_service_whose_schema_is_behind_is_not_ready_until_it_is_migrated(
    client: Client, database: Database, schema: str
) -> None:
    assert (await client.get("/health/ready")).status_code == 200
    await database.fetch(schema)
    behind = await until(client, "/health/ready", 503)
    assert "depot migrate" in assert_refused(behind, 503, "DATABASE_UNAVAILABLE")["message"]
    assert behind.headers["Retry-After"] == "1"
    assert (await client.get("/health")).json()["status"] == "healthy"
    await database.fetch("create table if not exists schema_version (version_num varchar(32))")
    await database.fetch("delete from schema_version")
    await database.fetch("insert into schema_version values ($1)", SCHEMA)
    await until(client, "/health/ready", 200)


async def test_a_schema_that_is_ahead_is_ready(client: Client, database: Database) -> None:
    await database.fetch("update schema_version set version_num = '9999'")
    assert (await client.get("/health/ready")).status_code == 200


async def test_concurrent_calls_share_one_look_at_the_database(settings: Settings) -> None:
    async with serving(settings) as (client, probe):
        await client.get("/health")
        looks: list[str] = []
        connection = await probe._connection.get()
        connection.add_query_logger(lambda record: looks.append(record.query))
        deadline = monotonic() + RECOVERY_SECONDS
        while not looks:  # as long as the last look counts
            assert {reply.status_code for reply in await burst(client)} == {200}
            assert monotonic() < deadline
        assert len(looks) == 2  # the schema and the clock, the queue


async def test_a_check_of_the_store_that_expires_while_it_is_requested_is_still_the_answer(
    settings: Settings,
) -> None:
    async with serving(settings) as (_, probe):
        assert await probe.storage_available()
        asked = asyncio.create_task(probe.storage_available())
        await asyncio.sleep(0)  # it has found the look young enough
        probe._storage_checked_at -= STATUS_TTL_SECONDS
        assert await asyncio.gather(asked, probe.storage_available()) == [True, True]


@pytest.mark.parametrize("trouble", [Server.suspended, Server.away])
async def test_health_answers_within_a_second_whatever_the_database_does(
    own_server: Server, tmp_path: Path, trouble: Callable[[Server], AbstractContextManager[None]]
) -> None:
    async with serving(Settings(database_url=own_server.url, home=tmp_path)) as (client, _):
        await until(client, "/health/ready", 200)
        with trouble(own_server):
            await until(client, "/health", 503)
            started = monotonic()
            for reply in await burst(client):
                assert_degraded(reply)
            assert monotonic() - started < ANSWER_SECONDS
            ready = await client.get("/health/ready")
            assert_refused(ready, 503, "DATABASE_UNAVAILABLE")
            assert ready.headers["Retry-After"] == "1"
            assert (await client.get("/health/live")).status_code == 200
        await until(client, "/health", 200)
        await until(client, "/health/ready", 200)


@pytest.mark.parametrize("path", ["/items", "/resources"])
@pytest.mark.parametrize("trouble", [Server.suspended, Server.away])
async def test_without_the_database_requests_are_refused_within_a_second_and_work_again_soon(
    own_server: Server, tmp_path: Path, trouble: Callable[[Server], AbstractContextManager[None]], path: str
) -> None:
    settings = Settings(database_url=own_server.url, home=tmp_path)
    async with Database(settings).open() as database, database.orm_session() as session:
        key = await create_key(session, name="test", scopes=["admin"])
    async with serving(settings) as (client, _):
        client.headers["Authorization"] = f"Bearer {key}"
        await until(client, path, 200)
        with trouble(own_server):
            await asyncio.sleep(EXPIRE_AFTER_SECONDS)  # so long a known key is believed without asking
            started = monotonic()
            assert_refused(await client.get(path), 503, "DATABASE_UNAVAILABLE")
            assert monotonic() - started < ANSWER_SECONDS
        await until(client, path, 200)


def assert_degraded(reply: httpx.Response) -> None:
    """Its own shape, and in it the error contract, as in every reply that is not a 2xx."""
    health = reply.json()
    assert (reply.status_code, health["status"]) == (503, "degraded")
    assert health["dependencies"]["database"] == "unreachable"
    assert health["error"]["code"] == reply.headers["X-Error-Code"] == "DATABASE_UNAVAILABLE"
    assert health["error"]["request_id"] == reply.headers["X-Request-ID"]
    assert health["error"]["path"] == "/health"
    assert reply.headers["Retry-After"] == "1"
    assert not LEAK.search(reply.text)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Probe]]:
    """The application, a client whose requests overlap, and the look-out behind its health."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://depot") as client:
        yield client, components_of(app).probe


async def burst(client: httpx.AsyncClient) -> list[httpx.Response]:
    return await asyncio.gather(*(client.get("/health") for _ in range(20)))


async def until_reported(client: httpx.AsyncClient, dependency: str, state: str) -> dict[str, Any]:
    async with asyncio.timeout(RECOVERY_SECONDS + STATUS_TTL_SECONDS):
        while True:
            health: dict[str, Any] = (await client.get("/health")).json()
            if health["dependencies"][dependency] == state:
                return health
            await asyncio.sleep(0.05)


async def until(client: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    """The first reply with that status: each has to come within a second, and this one soon."""
    deadline = monotonic() + RECOVERY_SECONDS
    while True:
        started = monotonic()
        reply = await client.get(path)
        assert monotonic() - started < ANSWER_SECONDS
        if reply.status_code == status:
            return reply
        assert monotonic() < deadline, reply.text
        await asyncio.sleep(0.01)


async def test_callers_that_share_a_check_do_not_affect_each_other(tmp_path: Path) -> None:
    """One asks again as soon as it has the result, before the other reads it."""
    settings = Settings(database_url="postgresql://depot@127.0.0.1:1/depot", home=tmp_path)
    async with Database(settings).open() as database:
        probe = Probe(database, open_blob_store(settings), timeout_seconds=0.8)

        async def ask_repeatedly() -> list[bool]:
            return [(await probe.database_status()).reachable for _ in range(3)]

        assert await asyncio.gather(*(ask_repeatedly() for _ in range(3))) == [[False] * 3] * 3
