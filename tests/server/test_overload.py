"""Tests of load shedding with more clients than the limit; `make overload` is the long form."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import ClientSession

from service.http.admission import RETRY_SECONDS_MAX
from tests.support.app_helpers import eventually
from tests.support.depot_process import depot_serve
from tests.support.floods import (
    RECOVERY_SECONDS_MAX,
    concurrency_limit,
    connected,
    flood_with_hanging_webhooks,
    flood_with_unknown_keys,
    recover,
)
from tests.support.order_load import http_connection

IN_FLIGHT_MIN, IN_FLIGHT_MAX = 4, 16
TURNS = 20
FLOOD_SECONDS = 2.0
EARLY_RETRY_SECONDS = 0.05
PATIENT_CLIENTS = 400
"""They are told to wait for up to 8 s."""


async def test_requests_within_the_limit_are_served_and_the_rest_rejected(
    database_url: str, tmp_path: Path, key: str
) -> None:
    replies: Counter[tuple[int, str | None, str | None]] = Counter()
    with depot_serve(database_url, tmp_path / "home", DEPOT_IN_FLIGHT_MAX=str(IN_FLIGHT_MAX)) as server:
        async with connected(server.url, key) as session:
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


async def test_the_limit_is_at_its_minimum_while_more_clients_wait_than_it_admits(
    database_url: str, tmp_path: Path, key: str
) -> None:
    """Clients that retry early do not count twice, and clients that leave do not count."""
    limits = {"DEPOT_IN_FLIGHT_MAX": str(IN_FLIGHT_MAX), "DEPOT_IN_FLIGHT_MIN": str(IN_FLIGHT_MIN)}
    with depot_serve(database_url, tmp_path / "home", **limits) as server:
        async with asyncio.TaskGroup() as clients:

            def start(count: int, retry_seconds: float) -> list[asyncio.Task[None]]:
                work = [repeat_requests(server.url, key, retry_seconds) for _ in range(count)]
                return [clients.create_task(requests) for requests in work]

            async with connected(server.url, key) as session:
                staying = start(IN_FLIGHT_MAX - 1, EARLY_RETRY_SECONDS)
                leaving = start(PATIENT_CLIENTS, RETRY_SECONDS_MAX)
                await eventually(lambda: is_limit_between(session, 0, IN_FLIGHT_MIN))
                for task in leaving:
                    task.cancel()
                await eventually(
                    lambda: is_limit_between(session, IN_FLIGHT_MAX - 4, IN_FLIGHT_MAX), RECOVERY_SECONDS_MAX
                )
            for task in staying:
                task.cancel()


async def repeat_requests(url: str, key: str, retry_seconds: float) -> None:
    async with http_connection(url, key) as connection:
        while True:
            status, _ = await connection.ask("GET", "/items")
            await asyncio.sleep(retry_seconds if status == 503 else 0)


async def is_limit_between(session: ClientSession, lowest: int, highest: int) -> bool:
    return lowest <= await concurrency_limit(session) <= highest


@pytest.mark.parametrize("path", ["/metrics", "/items"])
async def test_after_a_flood_of_unknown_keys_ordinary_clients_are_served(
    database_url: str, tmp_path: Path, key: str, path: str
) -> None:
    with depot_serve(database_url, tmp_path / "home", DEPOT_POOL_SIZE="4") as server:
        statuses = await flood_with_unknown_keys(server.url, path, FLOOD_SECONDS)
        assert {401} <= statuses.keys() <= {401, 503}
        await recover(server.url, key)


async def test_beside_webhooks_that_hang_ordinary_clients_are_served(
    database_url: str, tmp_path: Path, key: str
) -> None:
    environment = {"DEPOT_POOL_SIZE": "4", "DEPOT_WEBHOOK_ALLOW_PRIVATE": "1"}
    with depot_serve(database_url, tmp_path / "home", **environment) as server:
        statuses, _ = await flood_with_hanging_webhooks(server.url, key, FLOOD_SECONDS)
    assert statuses.keys() == {200}
