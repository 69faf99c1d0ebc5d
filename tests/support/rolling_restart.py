"""Restarts of two replicas behind HAProxy, one after the other, while clients send requests."""

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import aiohttp
from msgspec import Struct, field

from tests.support.fault_injection import RestartableProcess, wait_until
from tests.support.ports import free_port
from tests.support.requirements import find_program

HAPROXY = find_program("haproxy")
CONFIGURATION = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
CLIENTS = 30
"""The number of clients, each on a persistent connection."""
DRAIN_SECONDS = 2
"""Longer than HAProxy needs to see that a replica is not ready: two checks, half a second apart."""


class Verdict(Struct):
    restarts: int = 0
    sent: int = 0
    slowest_ms: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    """Requests that broke or got anything but a 2xx."""


async def prove_rolling(
    url: str, replicas: list[RestartableProcess], key: str, *, rounds: int, rate: int
) -> Verdict:
    """Restart each of the replicas behind `url` `rounds` times, under `rate` requests a second."""
    verdict, over = Verdict(), asyncio.Event()
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(
        url, headers=headers, connector=aiohttp.TCPConnector(limit=CLIENTS)
    ) as session:
        item_id = await _first_item(session)
        clients = [
            asyncio.create_task(_ask(session, item_id, number, rate / CLIENTS, verdict, over))
            for number in range(CLIENTS)
        ]
        try:
            for replica in replicas:
                await _asked(replica)
            for replica in replicas * rounds:
                await asyncio.to_thread(replica.drain)
                begun_at = replica.log.stat().st_size
                replica.start()
                await _asked(replica, begun_at)
                verdict.restarts += 1
        finally:
            over.set()
            await asyncio.gather(*clients)
    return verdict


async def _asked(replica: RestartableProcess, begun_at: int = 0) -> None:
    """Wait until the load balancer sends requests to the replica, after that position of its log."""

    async def asked() -> bool:
        return b'"route":"/items' in replica.log.read_bytes()[begun_at:]

    await wait_until(asked)


async def _first_item(session: aiohttp.ClientSession) -> str:
    async def ready() -> bool:
        with suppress(aiohttp.ClientConnectorError):
            async with session.get("/health/ready") as reply:
                return reply.status == 200
        return False

    await wait_until(ready)
    new = {"sku": f"R-{uuid4().hex[:8]}", "name": "Bolt", "price": "9.99", "quantity": 10_000_000}
    async with session.post("/items", json=new, raise_for_status=True) as reply:
        return str((await reply.json())["id"])


async def _ask(
    session: aiohttp.ClientSession,
    item_id: str,
    number: int,
    rate: float,
    verdict: Verdict,
    over: asyncio.Event,
) -> None:
    """Run one client, which sends `rate` requests per second and alternates reads and writes."""
    begun = monotonic()
    for turn in count():
        due = begun + (turn + number / CLIENTS) / rate
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), max(0, due - monotonic()))
            return
        await _send(session, *_request(item_id, number + turn), verdict)


def _request(item_id: str, turn: int) -> tuple[str, str, dict[str, Any] | None, dict[str, str]]:
    order = {"customer_id": "c-1", "lines": [{"item_id": item_id, "quantity": 1}]}
    return [
        ("GET", f"/items/{item_id}", None, {}),
        ("PATCH", f"/items/{item_id}", {"description": f"{turn}"}, {}),
        ("POST", "/orders", order, {}),
        ("POST", "/users/u-1/actions", {"action": "login"}, {}),
        ("GET", "/orders?limit=5", None, {}),
        ("POST", "/orders", order, {"Idempotency-Key": uuid4().hex}),
    ][turn % 6]


async def _send(
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    content: dict[str, Any] | None,
    headers: dict[str, str],
    verdict: Verdict,
) -> None:
    verdict.sent += 1
    begun = monotonic()
    try:
        async with session.request(method, path, json=content, headers=headers) as reply:
            text = await reply.text()
            verdict.statuses[reply.status] += 1
            if reply.status >= 300:
                verdict.failed.append(f"{method} {path}: {reply.status} {text}")
    except (aiohttp.ClientError, TimeoutError) as error:
        verdict.failed.append(f"{method} {path}: {error!r}")
    verdict.slowest_ms = max(verdict.slowest_ms, (monotonic() - begun) * 1000)


@contextmanager
def balanced(database_url: str, home: Path) -> Iterator[tuple[str, list[RestartableProcess]]]:
    """Run two replicas behind HAProxy as `deploy/` configures it. Yield its URL and the replicas."""
    home.mkdir(exist_ok=True)
    environment = {
        "DATABASE_URL": database_url,
        "DEPOT_HOME": str(home),
        "DEPOT_LOG": "json",
        "DEPOT_DRAIN_SECONDS": str(DRAIN_SECONDS),
    }
    ports = [free_port() for _ in range(3)]
    with ExitStack() as stack:
        replicas = []
        for port in ports[:2]:
            replica = RestartableProcess(
                ["serve", "--port", str(port)], environment, home / f"serve-{port}.log"
            )
            stack.callback(replica.stop)
            replicas.append(replica)
        stack.enter_context(_haproxy(home, ports))
        yield f"http://127.0.0.1:{ports[2]}", replicas


@contextmanager
def _haproxy(home: Path, ports: list[int]) -> Iterator[None]:
    first, second, own = (f"127.0.0.1:{port}" for port in ports)
    environment = {**os.environ, "LB_BIND": own, "API_1": first, "API_2": second}
    with (home / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [str(HAPROXY), "-f", str(CONFIGURATION)], env=environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()
