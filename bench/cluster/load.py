"""Clients that keep a log of what was acknowledged, for the cluster's proof."""

import asyncio
import json
from asyncio import Task
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import aiohttp
import asyncpg

from tests.support.outage_load import STORED, Attempt, Load

CANCELLERS, CATALOGUERS, READERS = 2, 2, 4
NAMES = {
    "POST /orders": "select id::text from orders",
    "POST /users/ann/actions": "select id::text from events where type = 'user.action'",
    "POST /orders/{id}/cancel": "select id::text from orders where status = 'cancelled'",
    "POST /items": "select sku from items",
    "POST /items/{item}/stock": STORED["POST /items/{item}/stock"],
    "POST /documents": "select id::text from documents",
    "POST /process": STORED["POST /process"],
}
"""What must be stored for each acknowledgement, by the kind of request."""
EFFECTS = {
    "POST /orders": "select reference from orders",
    "POST /users/ann/actions": "select payload->>'action' from events where type = 'user.action'",
    "POST /documents": "select filename from documents",
    "POST /items/{item}/stock": STORED["POST /items/{item}/stock"],
}
"""What may be stored once only."""
NAMED = {"POST /items/{item}/stock"}
"""Kinds that are recognized by the name that the client gave; others by the id that the service gave."""
TAKEN = "DUPLICATE_SKU"
"""The error that confirms to the only client of a SKU that an earlier attempt took effect."""


class ClusterLoad(Load):
    """All kinds of requests, and those whose repetition is answered without writing anything."""

    def __init__(self, sessions: Sequence[aiohttp.ClientSession], item: str) -> None:
        super().__init__(sessions, item)
        self.cancelled: list[str] = []
        self.created: list[str] = []
        self.stale_reads: list[float] = []
        """The times at which a read showed an older version than was acknowledged before it."""
        self._serial = count()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with super().running():
            clients: list[Task[None]] = []
            for number, client in ((CANCELLERS, self._cancel), (CATALOGUERS, self._create)):
                clients += [asyncio.create_task(self._repeat(client)) for _ in range(number)]
            clients += [asyncio.create_task(self._compare_versions()) for _ in range(READERS)]
            try:
                yield
            finally:
                self.over.set()
                await asyncio.wait_for(asyncio.gather(*clients), 30)

    def acknowledgements(self) -> dict[str, set[str]]:
        """Return the name or the id of everything that was acknowledged so far."""
        made = {kind: {one[kind not in NAMED] for one in done} for kind, done in self.acknowledged.items()}
        return made | {"POST /orders/{id}/cancel": set(self.cancelled), "POST /items": set(self.created)}

    async def _repeat(self, client: Callable[[], Awaitable[None]]) -> None:
        while not self.over.is_set():
            await client()
            await self._pause()

    async def _until_acknowledged(self, kind: str, path: str, **content: Any) -> Any:
        """Repeat a request until it succeeds, or until an error shows that it did earlier."""
        while True:
            attempt, body = await self.send(kind, "POST", path, **content)
            if not is_failed(attempt):
                return json.loads(body)
            await self._pause()

    async def _cancel(self) -> None:
        """Place an order and cancel it without a key: a second cancel writes nothing."""
        name = f"c-{next(self._serial)}"
        lines = [{"item_id": self._item, "quantity": 1}]
        body = {"customer_id": "c", "reference": name, "lines": lines}
        headers = {"Idempotency-Key": name}
        order = await self._until_acknowledged("POST /orders", "/orders", json=body, headers=headers)
        self.acknowledged["POST /orders"].append((name, order["id"]))
        await self._until_acknowledged("POST /orders/{id}/cancel", f"/orders/{order['id']}/cancel")
        self.cancelled.append(order["id"])

    async def _create(self) -> None:
        """Create an item without a key: a duplicate SKU shows that an earlier attempt took effect."""
        sku = f"NEW-{next(self._serial)}"
        item = {"sku": sku, "name": "Nut", "price": "1.00"}
        await self._until_acknowledged("POST /items", "/items", json=item)
        self.created.append(sku)

    async def _compare_versions(self) -> None:
        """Change an item of its own, and read it again and again."""
        sku = f"READ-{next(self._serial)}"
        item = {"sku": sku, "name": "Nut", "price": "1.00"}
        await self._until_acknowledged("POST /items", "/items", json=item)
        version, path = 0, ""
        while not self.over.is_set():
            attempt, body = await self.send("GET /items", "GET", f"/items?sku={sku}")
            if attempt.succeeded:
                [read] = json.loads(body)["data"] or [{"version": -1, "id": ""}]
                if read["version"] < version:
                    self.stale_reads.append(attempt.ended)
                path = f"/items/{read['id']}"
            if path:
                body_ = {"description": f"{attempt.ended}"}
                attempt, body = await self.send("PATCH /items/{item}", "PATCH", path, json=body_)
                version = json.loads(body)["version"] if attempt.succeeded else version
            await self._pause()


def is_failed(attempt: Attempt) -> bool:
    return not attempt.succeeded and attempt.code != TAKEN


async def compare(url: str, load: ClusterLoad) -> tuple[list[str], list[str]]:
    """Return the acknowledged changes that are lost, and the changes that happened twice."""
    acknowledged = load.acknowledgements()
    connection = await asyncpg.connect(url)
    try:
        stored = {kind: {row[0] for row in await connection.fetch(query)} for kind, query in NAMES.items()}
        effects = {
            kind: Counter(map(tuple, await connection.fetch(query))) for kind, query in EFFECTS.items()
        }
    finally:
        await connection.close()
    lost = [f"{kind} {name} is lost" for kind, names in acknowledged.items() for name in names - stored[kind]]
    doubled = [
        f"{kind} {name} happened {times} times"
        for kind, counted in effects.items()
        for (name,), times in counted.items()
        if name is not None and times > 1
    ]
    return lost, doubled
