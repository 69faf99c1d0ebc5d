"""Tests of load shedding with ten times as many clients as the limit; `make overload` is the long form."""

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp

from service.http.admission import RETRY_SECONDS_MAX
from tests.support.depot_process import depot_serve

IN_FLIGHT_MAX = 16
TURNS = 20


async def test_requests_within_the_limit_are_served_and_the_rest_rejected(
    database_url: str, tmp_path: Path, key: str
) -> None:
    replies: Counter[tuple[int, str | None, str | None]] = Counter()
    headers, connector = {"Authorization": f"Bearer {key}"}, aiohttp.TCPConnector(limit=0)
    with depot_serve(database_url, tmp_path / "home", DEPOT_IN_FLIGHT_MAX=str(IN_FLIGHT_MAX)) as server:
        async with aiohttp.ClientSession(server.url, headers=headers, connector=connector) as session:
            new = {"sku": "B-1", "name": "Bolt", "price": "9.99"}
            async with session.post("/items", json=new, raise_for_status=True) as reply:
                path = reply.headers["Location"]

            async def repeat() -> None:
                for _ in range(TURNS):
                    async with session.get(path) as reply:
                        said = reply.headers.get("X-Error-Code"), reply.headers.get("Retry-After")
                        replies[reply.status, *said] += 1
                        await reply.read()

            async with asyncio.TaskGroup() as clients:
                for _ in range(10 * IN_FLIGHT_MAX):
                    clients.create_task(repeat())
                for probe in ("/health/live", "/health/ready", "/health"):
                    async with session.get(probe) as reply:
                        assert reply.status == 200
        assert server.events("database away") == server.events("unhandled_error") == []
    print(f"{replies.total()} requests: {dict(replies)}")
    rejected = {(503, "OVERLOADED", str(seconds)) for seconds in range(1, RETRY_SECONDS_MAX + 1)}
    assert {(200, None, None)} < replies.keys() <= {(200, None, None)} | rejected
    assert replies.total() == 10 * IN_FLIGHT_MAX * TURNS
