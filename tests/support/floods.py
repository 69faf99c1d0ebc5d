"""Floods of a running service, and what ordinary clients see beside and after them.

For the tests of overload and for `make flood`.
"""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from time import monotonic
from typing import Any

import aiohttp
from msgspec import Struct

from service.auth.keys import mint
from service.settings import Settings
from tests.support.app_helpers import eventually
from tests.support.order_load import BROKEN, http_connection
from tests.support.scraped_metrics import ScrapedMetrics

FLOOD_CONNECTIONS, ORDINARY_CLIENTS, HANGING_WEBHOOKS = 250, 48, 25
BACKLOG_PER_WEBHOOK = 40
"""Five times as many deliveries as one webhook gets at the same time."""
KEYS = 5000
PAUSE_SECONDS = 0.1
"""The time between two requests of an ordinary client."""
SERVED_SECONDS_MAX, RECOVERY_SECONDS_MAX = 5.0, 5.0
LIMIT = "http_in_flight_limit"


class Recovery(Struct, frozen=True):
    """The service after a flood, as ordinary clients see it."""

    lowest_limit: float
    """The concurrency limit directly after the flood."""
    served_seconds: float
    """The time until every ordinary client was served at the same time."""
    recovery_seconds: float
    """The time from then until the concurrency limit was at its maximum."""


async def recover(url: str, key: str) -> Recovery:
    """Wait until the service works as before the flood. Raises `TimeoutError` if that takes too long."""
    async with connected(url, key) as session:
        lowest, started = await concurrency_limit(session), monotonic()
        async with asyncio.timeout(SERVED_SECONDS_MAX):
            while await served_together(session) < ORDINARY_CLIENTS:
                pass
        served = monotonic()
        async with asyncio.timeout(RECOVERY_SECONDS_MAX):
            await eventually(lambda: is_limit_at_maximum(session))
    return Recovery(lowest, served - started, monotonic() - served)


@asynccontextmanager
async def connected(url: str, key: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    headers, connector = {"Authorization": f"Bearer {key}"} if key else {}, aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as session:
        yield session


async def flood_with_unknown_keys(url: str, path: str, seconds: float) -> Counter[int]:
    """Send unknown keys on many connections, and return how often each status was the reply."""
    keys, statuses, end = cycle([mint() for _ in range(KEYS)]), Counter[int](), monotonic() + seconds

    async def send() -> None:
        while monotonic() < end:
            async with http_connection(url, next(keys)) as connection:
                while monotonic() < end:
                    status, _ = await connection.ask("GET", path)
                    statuses[status] += 1
                    connection.key = next(keys)

    await asyncio.gather(*(send() for _ in range(FLOOD_CONNECTIONS)))
    return statuses


async def served_together(session: aiohttp.ClientSession) -> int:
    """Return how many of the ordinary clients' concurrent requests succeed."""

    async def send() -> bool:
        async with session.get("/items") as reply:
            await reply.read()
            return reply.status == 200

    return sum(await asyncio.gather(*(send() for _ in range(ORDINARY_CLIENTS))))


async def concurrency_limit(session: aiohttp.ClientSession) -> float:
    async with session.get("/metrics", raise_for_status=True) as reply:
        return ScrapedMetrics(await reply.text()).sum(LIMIT)


async def is_limit_at_maximum(session: aiohttp.ClientSession) -> bool:
    return await concurrency_limit(session) == Settings().in_flight_max


@asynccontextmanager
async def hanging_receiver() -> AsyncIterator[str]:
    """Yield the URL of a receiver that accepts every connection and never replies."""
    end = asyncio.Event()

    async def hang(_: StreamReader, writer: StreamWriter) -> None:
        await end.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}/"
    finally:
        end.set()
        server.close()
        with suppress(*BROKEN):
            await server.wait_closed()


async def subscribe_hanging_webhooks(session: aiohttp.ClientSession, receiver: str) -> None:
    """Register webhooks that hang, and give each a backlog of events."""
    for _ in range(HANGING_WEBHOOKS):
        await _post(session, "/webhooks", {"url": receiver, "events": ["item.updated"]})
    item = await _post(session, "/items", {"sku": "B-1", "name": "Bolt", "price": "9.99"})
    for number in range(BACKLOG_PER_WEBHOOK):
        await _post(session, f"/items/{item['id']}/stock", {"delta": number + 1})


async def flood_with_hanging_webhooks(url: str, key: str, seconds: float) -> tuple[Counter[int], Recovery]:
    """Return the replies to ordinary clients beside webhooks that hang, and the recovery from the load."""
    async with hanging_receiver() as receiver, connected(url, key) as session:
        await subscribe_hanging_webhooks(session, receiver)
        return await ordinary_load(session, seconds), await recover(url, key)


async def ordinary_load(session: aiohttp.ClientSession, seconds: float) -> Counter[int]:
    """Send one request after the other from every ordinary client, with pauses; count the statuses."""
    statuses, end = Counter[int](), monotonic() + seconds

    async def send() -> None:
        while monotonic() < end:
            async with session.get("/items") as reply:
                await reply.read()
                statuses[reply.status] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(send() for _ in range(ORDINARY_CLIENTS)))
    return statuses


async def _post(session: aiohttp.ClientSession, path: str, content: object) -> dict[str, Any]:
    async with session.post(path, json=content, raise_for_status=True) as reply:
        created: dict[str, Any] = await reply.json()
        return created
