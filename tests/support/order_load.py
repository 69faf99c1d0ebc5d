"""Concurrent buyers, clerks who change names and prices meanwhile, and a tally of their replies.

For the tests under load and for `make storm`.
"""

import asyncio
import csv
import json
from asyncio import Event, StreamReader, StreamWriter
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from tests.support.consistency import discrepancies

BROKEN = (OSError, asyncio.IncompleteReadError)
"""Errors of a connection that ended before the reply did."""

NAME = "Item at {price}"
"""A name contains the price it was set with, so a line that mixes two versions of an item shows."""

INCONSISTENT_LINES = "select sku, name, unit_price from order_lines where name <> 'Item at ' || unit_price"


class HttpConnection:
    """HTTP/1.1 on one connection. A full client would use more CPU than the service under test."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, key: str) -> None:
        self._reader = reader
        self._writer = writer
        self.key = key

    async def ask(self, method: str, path: str, content: object = None) -> tuple[int, Any]:
        """Return the status and the JSON of the reply. Raises `BROKEN` if there is none."""
        body = b"" if content is None else json.dumps(content).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: depot\r\nAuthorization: Bearer {self.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).lower().splitlines()
        (length,) = (int(line.split(b":")[1]) for line in headers if line.startswith(b"content-length:"))
        return int(status.split()[1]), json.loads(await self._reader.readexactly(length))


@asynccontextmanager
async def http_connection(url: str, key: str) -> AsyncIterator[HttpConnection]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield HttpConnection(reader, writer, key)
    finally:
        writer.close()
        with suppress(*BROKEN):
            await writer.wait_closed()


class OrderTally:
    """The replies that all clients got."""

    def __init__(self) -> None:
        self.placed: dict[str, str] = {}
        """The totals of the acknowledged orders, by id."""
        self.refused: Counter[str] = Counter()
        self.sold_out: set[str] = set()
        self.changed = 0
        self.unanswered = 0

    @property
    def orders(self) -> int:
        """The number of attempts to place an order."""
        return len(self.placed) + self.refused.total() + self.unanswered

    def add(self, status: int, content: Any) -> None:
        if status == 201:
            self.placed[content["id"]] = content["total"]
            return
        self.refused[content["error"]["code"]] += 1
        short = content["error"].get("details", [])
        self.sold_out |= {line["sku"] for line in short if line.get("available") == 0}


async def buy(
    url: str, key: str, skus: Sequence[str], tally: OrderTally, random: Random, over: Event
) -> None:
    """Order one to three items repeatedly, until the time is over or the connection breaks."""
    try:
        async with http_connection(url, key) as server:
            while not over.is_set():
                chosen = random.sample(skus, random.randint(1, 3))
                lines = [{"sku": sku, "quantity": random.randint(1, 3)} for sku in chosen]
                tally.add(*await server.ask("POST", "/orders", {"customer_id": "c-1", "lines": lines}))
    except BROKEN:
        tally.unanswered += 1


async def change(
    url: str, key: str, skus: Sequence[str], tally: OrderTally, random: Random, over: Event
) -> None:
    """Change names and prices of items repeatedly."""
    async with http_connection(url, key) as server:
        found = [await server.ask("GET", f"/items?sku={sku}") for sku in skus]
        paths = [f"/items/{page['data'][0]['id']}" for _, page in found]
        while not over.is_set():
            price = f"{Decimal(random.randint(1, 99_999)) / 100:.2f}"
            content = {"name": NAME.format(price=price), "price": price}
            status, item = await server.ask("PATCH", random.choice(paths), content)
            assert (status, item["name"]) == (200, content["name"])
            tally.changed += 1


async def run_load(
    url: str, key: str, skus: Sequence[str], tally: OrderTally, *, seconds: float, buyers: int, clerks: int
) -> None:
    """Run all buyers and clerks concurrently on these items, for that time."""
    over = Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    async with asyncio.timeout(seconds + 30), asyncio.TaskGroup() as group:
        for seed in range(buyers):
            group.create_task(buy(url, key, skus, tally, Random(seed), over))
        for seed in range(clerks):
            group.create_task(change(url, key, skus, tally, Random(seed), over))


async def check_results(database_url: str, tally: OrderTally) -> list[str]:
    """Return a sentence for each error after the load."""
    found = await discrepancies(database_url, tally.placed)
    connection = await asyncpg.connect(database_url)
    try:
        torn = await connection.fetch(INCONSISTENT_LINES)
        oversold = await connection.fetch("select sku, quantity from items where quantity < 0")
        stored = await connection.fetchval("select count(*) from orders")
    finally:
        await connection.close()
    found += [f"a line has a name and a price that were never together: {dict(row)}" for row in torn]
    found += [f"an item is oversold: {dict(row)}" for row in oversold]
    if tally.unanswered:
        found.append(f"{tally.unanswered} requests got no reply")
    if stored != len(tally.placed):
        found.append(f"{len(tally.placed)} orders were acknowledged, {stored} are stored")
    return found


def write_catalog(file: Path, *, items: int, wanted: int, quantity_max: int) -> list[str]:
    """Write a CSV of items, and return the SKUs of the wanted ones, whose stocks differ."""
    random = Random(items)
    skus = [f"ITEM-{number:05}" for number in range(items)]
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["sku", "name", "price", "quantity"])
        for number, sku in enumerate(skus):
            price = f"{Decimal(random.randint(1, 99_999)) / 100:.2f}"
            quantity = quantity_max * (number + 1) // wanted if number < wanted else random.randint(0, 500)
            writer.writerow([sku, NAME.format(price=price), price, quantity])
    return skus[:wanted]
