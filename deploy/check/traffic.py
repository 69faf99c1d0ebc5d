"""Clients on persistent connections that send requests at a steady rate while a block lasts."""

import asyncio
import threading
from collections import Counter
from time import perf_counter
from types import TracebackType
from typing import Self
from uuid import uuid4

import httpx

CLIENTS = 16
SECONDS_MAX = 60.0
"""Upper bound if the block never ends."""


class Traffic:
    """Reads, PATCHes, and orders with and without a key, of one item."""

    def __init__(
        self, client: httpx.Client, item: str, *, per_second: float, repeatable: bool = False
    ) -> None:
        """`repeatable`: send only requests that may be repeated. Use it as a context manager."""
        self._url = client.base_url
        self._headers = client.headers
        self._item = item
        self._interval = CLIENTS / per_second
        self._repeatable = repeatable
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.ordered = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def __str__(self) -> str:
        ranked = sorted(self.seconds)
        p50, p99, slowest = (ranked[(len(ranked) - 1) * rank // 100] * 1000 for rank in (50, 99, 100))
        times = f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, slowest {slowest:.0f} ms"
        return f"{len(ranked)} requests, {len(self.failures)} failed, {times}"

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(self._client())

    async def _client(self) -> None:
        started_at = perf_counter()
        async with httpx.AsyncClient(base_url=self._url, headers=self._headers, timeout=30) as client:
            number = 0
            while not self._over.is_set() and perf_counter() - started_at < SECONDS_MAX:
                await self._send(client, number % 4)
                number += 1
                await asyncio.sleep(max(0.0, started_at + number * self._interval - perf_counter()))

    async def _send(self, client: httpx.AsyncClient, number: int) -> None:
        started_at = perf_counter()
        try:
            reply = await client.send(self._request(client, number))
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
        else:
            self.statuses[reply.status_code] += 1
            self.ordered += reply.status_code == httpx.codes.CREATED
            if not reply.is_success:
                self.failures.append(f"{reply.request.method} {reply.status_code} {reply.text}")
        self.seconds.append(perf_counter() - started_at)

    def _request(self, client: httpx.AsyncClient, number: int) -> httpx.Request:
        order = {"customer_id": "c-1", "lines": [{"item_id": self._item, "quantity": 1}]}
        if number == 0 or (number == 1 and not self._repeatable):
            key = {"Idempotency-Key": str(uuid4())} if number == 0 else {}
            return client.build_request("POST", "/orders", json=order, headers=key)
        if number == 2 and not self._repeatable:
            return client.build_request("PATCH", f"/items/{self._item}", json={"description": str(uuid4())})
        return client.build_request("GET", f"/items/{self._item}")
