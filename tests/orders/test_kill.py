"""`kill -9` under load: every acknowledged order is stored, and no order is stored in part."""

import asyncio
from functools import partial
from pathlib import Path
from random import Random

from tests.support.app_helpers import eventually, item, wait_until_idle
from tests.support.consistency import discrepancies
from tests.support.depot_process import DepotProcess, depot_serve
from tests.support.order_load import OrderTally, buy

ROUNDS = 3
BUYERS = 8
SEED = 9


async def test_a_killed_server_loses_no_order_and_leaves_none_incomplete(
    key: str, database_url: str, tmp_path: Path
) -> None:
    random, tally, skus = Random(SEED), OrderTally(), list[str]()
    for _ in range(ROUNDS):
        with depot_serve(database_url, tmp_path / "home") as server:
            async with server.client(key) as client:
                skus = skus or [(await item(client, 100_000))["sku"] for _ in range(5)]
            await kill_under_load(server, key, skus, tally, random)
        await wait_until_idle(database_url)
        assert await discrepancies(database_url, tally.placed) == []
    assert len(tally.placed) > ROUNDS * 20
    assert tally.refused == {}


async def test_after_a_kill_the_next_server_serves_what_was_acknowledged(
    key: str, database_url: str, tmp_path: Path
) -> None:
    tally = OrderTally()
    with depot_serve(database_url, tmp_path / "home") as server:
        async with server.client(key) as client:
            skus = [(await item(client, 100_000))["sku"] for _ in range(3)]
        await kill_under_load(server, key, skus, tally, Random(SEED))
    with depot_serve(database_url, tmp_path / "home") as server:
        async with server.client(key) as client:
            replies = [await client.get(f"/orders/{order_id}") for order_id in tally.placed]
    assert {reply.json()["id"]: reply.json()["total"] for reply in replies} == tally.placed


async def kill_under_load(
    server: DepotProcess, key: str, skus: list[str], tally: OrderTally, random: Random
) -> None:
    """Order from several clients, and kill the server while some of their requests are in flight."""
    enough = len(tally.placed) + random.randint(20, 120)
    never = asyncio.Event()
    buyers = [
        asyncio.create_task(buy(server.url, key, skus, tally, Random(random.random()), never))
        for _ in range(BUYERS)
    ]
    await eventually(partial(sold, tally, enough))
    server.kill()
    await asyncio.gather(*buyers)


async def sold(tally: OrderTally, how_many: int) -> bool:
    return len(tally.placed) >= how_many
