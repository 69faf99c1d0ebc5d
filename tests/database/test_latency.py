"""A distant database works: timeouts follow the measured round trips."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import monotonic

import httpx
import pytest
from structlog.testing import capture_logs

from service.auth.store import create_key
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import eventually, running
from tests.support.delaying_proxy import delaying_proxy
from tests.support.postgres_nodes import Node, node
from tests.support.scraped_metrics import ScrapedMetrics

ROUND_TRIP_SECONDS = 0.15
QUIET_SECONDS = float(os.environ.get("DISTANT_SECONDS", "3"))
"""How long there must be no false alarm."""


@pytest.fixture
def server(home: Path) -> Iterator[Node]:
    with node(home) as server:
        yield server


@pytest.fixture
async def key(server: Node, home: Path) -> str:
    settings = Settings(database_url=server.url, home=home)
    async with Database(settings).open() as database, database.orm_session() as session:
        return await create_key(session, name="test", scopes=["admin"])


@pytest.fixture
async def distant(server: Node, home: Path) -> AsyncIterator[Settings]:
    async with delaying_proxy(server.port, ROUND_TRIP_SECONDS) as port:
        yield Settings(database_url=f"postgresql://postgres@127.0.0.1:{port}/postgres", home=home)


async def test_a_distant_database_works_and_raises_no_false_alarm(distant: Settings, key: str) -> None:
    with capture_logs() as logs:
        async with running(distant, key) as client:
            await eventually(lambda: is_ready(client))
            requests = [client.get("/orders") for _ in range(4)]
            requests += [client.put(f"/resources/{number}", json={"status": "on"}) for number in range(4)]
            assert {reply.status_code for reply in await asyncio.gather(*requests)} == {200, 201}
            until = monotonic() + QUIET_SECONDS
            while monotonic() < until:
                assert await is_ready(client), logs
                await asyncio.sleep(1)
            health = (await client.get("/health")).json()
            assert health["dependencies"]["database"] == "connected", logs
            await eventually(lambda: all_metrics_are_read(client))
    assert "database_down" not in {line["event"] for line in logs}


async def is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200


async def all_metrics_are_read(client: httpx.AsyncClient) -> bool:
    metrics = ScrapedMetrics((await client.get("/metrics")).text)
    return {"depot_jobs", "depot_webhook_lag_seconds"} <= set(metrics.families)


async def test_a_distant_server_is_found_behind_a_silent_one(distant: Settings) -> None:
    url = distant.database_url or ""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        several = url.replace("@127.0.0.1", f"@127.0.0.1:{port},127.0.0.1:{port},127.0.0.1")
        async with Database(Settings(database_url=several, home=distant.home)).open() as database:
            await eventually(lambda: answers(database))
            await asyncio.sleep(QUIET_SECONDS)
            assert not database.monitor.is_down


async def answers(database: Database) -> bool:
    return database.monitor.round_trip_seconds > 0
