"""Tests of load shedding with more clients than the limit; `make overload` is the long form."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from time import monotonic

import aiohttp
import httpx
import pytest

from service.auth.keys import mint
from service.http.admission import RETRY_SECONDS_MAX
from service.settings import Settings
from tests.support.app_helpers import eventually
from tests.support.depot_process import DepotProcess, depot_serve
from tests.support.scraped_metrics import ScrapedMetrics

IN_FLIGHT_MAX = 16
TURNS = 20
FLOOD_CONNECTIONS, FLOOD_SECONDS = 250, 2.0
ORDINARY_CLIENTS = 48
RECOVERY_SECONDS = 5


async def test_requests_within_the_limit_are_served_and_the_rest_rejected(
    database_url: str, tmp_path: Path, key: str
) -> None:
    replies: Counter[tuple[int, str | None, str | None]] = Counter()
    with depot_serve(database_url, tmp_path / "home", DEPOT_IN_FLIGHT_MAX=str(IN_FLIGHT_MAX)) as server:
        async with connected(server, key) as session:
            new = {"sku": "B-1", "name": "Bolt", "price": "9.99"}
            async with session.post("/items", json=new, raise_for_status=True) as reply:
                path = reply.headers["Location"]

            async def repeat() -> None:
                for _ in range(TURNS):
                    async with session.get(path) as reply:
                        outcome = reply.headers.get("X-Error-Code"), reply.headers.get("Retry-After")
                        replies[reply.status, *outcome] += 1
                        await reply.read()

            async with asyncio.TaskGroup() as clients:
                for _ in range(10 * IN_FLIGHT_MAX):
                    clients.create_task(repeat())
                for probe in ("/health/live", "/health/ready", "/health"):
                    async with session.get(probe) as reply:
                        assert reply.status == 200
        assert server.events("database_down") == server.events("unhandled_error") == []
    print(f"{replies.total()} requests: {dict(replies)}")
    rejected = {(503, "OVERLOADED", str(seconds)) for seconds in range(1, RETRY_SECONDS_MAX + 1)}
    assert {(200, None, None)} < replies.keys() <= {(200, None, None)} | rejected
    assert replies.total() == 10 * IN_FLIGHT_MAX * TURNS


@pytest.mark.parametrize("path", ["/metrics", "/items"])
async def test_after_a_flood_of_unknown_keys_ordinary_clients_are_served(
    database_url: str, tmp_path: Path, key: str, path: str
) -> None:
    with depot_serve(database_url, tmp_path / "home", DEPOT_POOL_SIZE="4") as server:
        async with connected(server) as session:
            await flood(session, path)
        async with asyncio.timeout(RECOVERY_SECONDS), connected(server, key) as session:
            while await served(session) < ORDINARY_CLIENTS:
                pass
        async with asyncio.timeout(RECOVERY_SECONDS), server.client(key) as client:
            await eventually(lambda: is_limit_at_maximum(client))


@asynccontextmanager
async def connected(server: DepotProcess, key: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    headers, connector = {"Authorization": f"Bearer {key}"} if key else {}, aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(server.url, headers=headers, connector=connector) as session:
        yield session


async def flood(session: aiohttp.ClientSession, path: str) -> None:
    keys, end = cycle([mint() for _ in range(2000)]), monotonic() + FLOOD_SECONDS

    async def send() -> None:
        while monotonic() < end:
            async with session.get(path, headers={"Authorization": f"Bearer {next(keys)}"}) as reply:
                assert reply.status in {401, 503}
                await reply.read()

    await asyncio.gather(*(send() for _ in range(FLOOD_CONNECTIONS)))


async def served(session: aiohttp.ClientSession) -> int:
    """Return how many of the ordinary clients' concurrent requests succeed."""

    async def send() -> bool:
        async with session.get("/items") as reply:
            await reply.read()
            return reply.status == 200

    return sum(await asyncio.gather(*(send() for _ in range(ORDINARY_CLIENTS))))


async def is_limit_at_maximum(client: httpx.AsyncClient) -> bool:
    metrics = ScrapedMetrics((await client.get("/metrics")).text)
    return metrics.sum("http_in_flight_limit") == Settings().in_flight_max
