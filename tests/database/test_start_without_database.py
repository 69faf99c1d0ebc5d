"""Processes that serve start while the database is down, are not ready, and begin when it comes."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.auth.store import create_key
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import eventually
from tests.support.depot_process import depot_running, depot_serve
from tests.support.postgres_nodes import Node, node


@pytest.fixture
def server(home: Path) -> Iterator[Node]:
    with node(home) as server:
        yield server


async def test_serve_starts_while_the_database_is_down(server: Node, home: Path, tmp_path: Path) -> None:
    async with (
        Database(Settings(database_url=server.url, home=home)).open() as database,
        database.orm_session() as session,
    ):
        key = await create_key(session, name="test", scopes=["admin"])
    await asyncio.to_thread(server.kill)
    with depot_serve(server.url, tmp_path) as depot:
        async with depot.client(key) as client:
            assert (await client.get("/health/live")).status_code == 200
            assert (await client.get("/health/ready")).status_code == 503
            refused = await client.get("/items")
            assert refused.json()["error"]["code"] == "DATABASE_UNAVAILABLE"
            await asyncio.to_thread(server.start)
            await eventually(lambda: ready(client))
            assert (await client.get("/items")).status_code == 200


async def ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200


async def test_a_worker_starts_while_the_database_is_down(server: Node, tmp_path: Path) -> None:
    await asyncio.to_thread(server.kill)
    with depot_running(["worker"], server.url, tmp_path, {}) as worker:
        await asyncio.to_thread(worker.wait_for, "database_down", 1)
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(worker.wait_for, "worker_started", 1)
