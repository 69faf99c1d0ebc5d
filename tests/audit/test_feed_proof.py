"""A reader of `/events` misses nothing and gets nothing twice, in whatever order transactions commit.

The service is killed meanwhile. `make concurrency` is the long form.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.app_helpers import connected
from tests.support.fault_injection import (
    RETRY_DELAY_SECONDS,
    RestartableProcess,
    cluster,
    post_until_acknowledged,
)
from tests.support.written_events import record

SECONDS = float(os.environ.get("PROOF_SECONDS", "3"))
CLIENTS = 64 if "PROOF_SECONDS" in os.environ else 8
WRITERS = 16
"""Connections whose transactions commit in a different order than they record their events."""
OPEN_SECONDS = min(10.0, SECONDS / 2)
KILLS = 2


class PersistentReader:
    """A consumer that stores its cursor, and repeats a request that gets no reply."""

    def __init__(self, client: httpx.AsyncClient, url: str, limit: int) -> None:
        self._client = client
        self._url = url
        self._filters: dict[str, Any] = {"type": "user.action", "limit": limit}
        self.ids: list[str] = []
        self.pages = 0

    async def poll(self) -> int:
        """Read one page, and return the number of its events."""
        while True:
            try:
                reply = await self._client.get(f"{self._url}/events", params=self._filters)
            except httpx.TransportError:
                reply = None
            if reply is not None and reply.status_code == 200:
                break
            assert reply is None or reply.status_code == 503, reply.text
            await asyncio.sleep(RETRY_DELAY_SECONDS)
        page = reply.json()
        self._filters["cursor"] = page["next_cursor"]
        self.ids += [event["id"] for event in page["data"]]
        self.pages += 1
        return len(page["data"])

    async def read_to(self, count: int) -> None:
        """Read until this many events have arrived and no more follow."""
        async with asyncio.timeout(30 + SECONDS):
            while len(self.ids) < count or await self.poll():
                await self.poll()


class Writing:
    """Writers that are active while the feed is read. `written` are the ids of all events."""

    def __init__(self, database_url: str, url: str) -> None:
        self._database_url = database_url
        self._url = url
        self._ended = False
        self.written: list[str] = []

    @asynccontextmanager
    async def in_progress(self, client: httpx.AsyncClient) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._act(client, number))
            for number in range(WRITERS):
                group.create_task(self._overtake(number))
            group.create_task(self._hold_open())
            try:
                yield
            finally:
                self._ended = True

    async def _act(self, client: httpx.AsyncClient, number: int) -> None:
        count = 0
        while not self._ended:
            count += 1
            path, key = "/users/ann/actions", f"{number}-{count}"
            made = await post_until_acknowledged(client, [self._url], path, {"action": "login"}, key)
            self.written.append(made["id"])

    async def _overtake(self, number: int) -> None:
        generator = random.Random(number)  # reproducible pauses
        async with connected(self._database_url) as connection:
            while not self._ended:
                async with connection.transaction():
                    ids = [await record(connection, number) for _ in range(generator.randint(1, 3))]
                    await asyncio.sleep(generator.choice([0, 0, 0.001, 0.05]))
                self.written += ids

    async def _hold_open(self) -> None:
        async with connected(self._database_url) as connection, connection.transaction():
            self.written.append(await record(connection, -1))
            await asyncio.sleep(OPEN_SECONDS)


async def test_a_reader_misses_nothing_and_gets_nothing_twice_though_the_service_is_killed(
    database_url: str, key: str, tmp_path: Path
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers=headers, timeout=30, limits=limits) as client:
        with cluster(database_url, tmp_path / "home", services=1, workers=0) as ([url], [service]):
            readers = [PersistentReader(client, url, limit) for limit in (50, 200)]
            await asyncio.gather(*(reader.poll() for reader in readers))
            writing = Writing(database_url, url)
            async with writing.in_progress(client):
                reading = [asyncio.create_task(read_on(reader)) for reader in readers]
                await kill_repeatedly(service)
                for task in reading:
                    task.cancel()
            await asyncio.wait(reading)
            for reader in readers:
                await reader.read_to(len(writing.written))
                assert len(reader.ids) == len(set(reader.ids))
                assert set(reader.ids) == set(writing.written)
                assert reader.ids == sorted(reader.ids)
            print(f"{len(writing.written)} events, {[reader.pages for reader in readers]} pages")
    assert service.kills == KILLS


async def read_on(reader: PersistentReader) -> None:
    while True:
        await reader.poll()


async def kill_repeatedly(service: RestartableProcess) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(SECONDS / (KILLS + 1))
        await asyncio.to_thread(service.kill_and_restart)
    await asyncio.sleep(SECONDS / (KILLS + 1))
