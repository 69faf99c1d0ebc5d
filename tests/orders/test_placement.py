"""Group commit under load: nothing is oversold, and orders that arrive together share a commit."""

import asyncio
from itertools import pairwise
from operator import itemgetter
from random import Random
from uuid import UUID

import asyncpg
import httpx
import pytest

from service.database.batch import REPLIES_PER_TURN
from service.database.database import Database
from service.events.journal import CLI
from service.items.stock_statements import ADJUST
from service.orders.pending import PendingOrder
from service.settings import Settings
from tests.support.app_helpers import (
    connected,
    item,
    locked,
    order,
    running,
    stock,
    wait_for_locks,
)
from tests.support.consistency import discrepancies
from tests.support.placement import new, outcomes, queue, settle, totals

SEED = 20


async def commits(database_url: str) -> list[int]:
    """Return the number of orders that each commit placed: those of one commit have one time."""
    async with connected(database_url) as connection:
        rows = await connection.fetch("select count(*) from orders group by created_at order by created_at")
    return [count for (count,) in rows]


# Concurrent orders


async def test_two_hundred_orders_of_fifty_units_sell_exactly_fifty(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    bolt = await item(concurrent_client, 50)
    replies = await asyncio.gather(*[order(concurrent_client, (bolt, 1)) for _ in range(200)])
    assert outcomes(replies) == {"placed": 50, "INSUFFICIENT_STOCK": 150}
    assert await stock(concurrent_client, bolt) == 0
    assert await discrepancies(database_url, totals(replies)) == []


async def test_two_replicas_on_one_database_sell_exactly_fifty(
    settings: Settings, key: str, database_url: str
) -> None:
    async with running(settings, key) as one, running(settings, key) as other:
        bolt = await item(one, 50)
        replies = await asyncio.gather(
            *[order(concurrent_client, (bolt, 1)) for concurrent_client in (one, other) * 100]
        )
    assert outcomes(replies) == {"placed": 50, "INSUFFICIENT_STOCK": 150}
    assert await discrepancies(database_url, totals(replies)) == []


async def test_orders_of_the_same_items_in_different_sequences_do_not_deadlock(
    settings: Settings, key: str, database_url: str
) -> None:
    random = Random(SEED)
    async with running(settings, key) as one, running(settings, key) as other:
        items = [await item(one, 500) for _ in range(6)]
        baskets = [[(each, 1) for each in random.sample(items, 3)] for _ in range(200)]
        replies = await asyncio.gather(*[order(random.choice([one, other]), *basket) for basket in baskets])
    assert outcomes(replies) == {"placed": 200}
    assert await discrepancies(database_url, totals(replies)) == []


async def test_concurrent_orders_and_stock_changes_stay_consistent(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    bolt = await item(concurrent_client, 100)
    changes = [concurrent_client.post(f"/items/{bolt['id']}/stock", json={"delta": 1}) for _ in range(20)]
    settings = [concurrent_client.patch(f"/items/{bolt['id']}", json={"quantity": 60 + n}) for n in range(5)]
    replies = await asyncio.gather(
        *[order(concurrent_client, (bolt, 1)) for _ in range(100)], *changes, *settings
    )
    assert all(reply.status_code in {200, 201, 409} for reply in replies)
    assert await discrepancies(database_url, totals(replies)) == []


async def test_an_order_uses_the_stock_that_is_left_when_it_gets_the_lock(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    bolt = await item(concurrent_client, 1)
    broken = {
        "item_ids": [UUID(bolt["id"])],
        "deltas": [-1],
        "quantities": [None],
        "expected": [None],
        "versions": [None],
        "reasons": ["the last unit broke"],
        "actors": [CLI.actor],
        "request_ids": [CLI.request_id],
    }
    async with locked(database_url, bolt) as holder:
        await holder.execute(*ADJUST(**broken))
        buyer = asyncio.create_task(order(concurrent_client, (bolt, 1)))
        await wait_for_locks(holder, 1)
    assert outcomes([await buyer]) == {"INSUFFICIENT_STOCK": 1}
    assert await discrepancies(database_url) == []


async def test_items_are_locked_in_id_order_whatever_the_order_of_the_lines(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    first, *others = sorted([await item(concurrent_client, 5) for _ in range(6)], key=itemgetter("id"))
    async with locked(database_url, first) as holder:
        buyer = asyncio.create_task(
            order(concurrent_client, *[(each, 1) for each in reversed(others)], (first, 1))
        )
        await wait_for_locks(holder, 1)
        await holder.execute("select 1 from items for update nowait")  # the order has none of them yet
    assert outcomes([await buyer]) == {"placed": 1}


async def test_an_item_stays_locked_from_the_check_of_its_stock_to_the_commit(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    bolt = await item(concurrent_client, 5)
    async with connected(database_url) as holder, holder.transaction():
        await holder.execute("lock table orders in exclusive mode")
        buyer = asyncio.create_task(order(concurrent_client, (bolt, 1)))
        await wait_for_locks(holder, 1)  # it has read the stock, and has not written yet
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with holder.transaction():
                await holder.execute("select 1 from items for no key update nowait")
    assert outcomes([await buyer]) == {"placed": 1}


# Shared commits


async def test_orders_that_arrive_together_share_one_commit(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str
) -> None:
    bolt = await item(concurrent_client, 200)
    async with queue(database) as placement:
        await settle(placement, [new(bolt)] * 200)
    assert await commits(database_url) == [200]


async def test_the_number_of_orders_in_a_commit_is_limited(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str
) -> None:
    bolt = await item(concurrent_client, 25)
    async with queue(database, batch_max=10) as placement:
        await settle(placement, [new(bolt)] * 25)
    assert sorted(await commits(database_url)) == [5, 10, 10]


@pytest.mark.usefixtures("own_app")  # its requests come from the event loop of the test, hence at once
async def test_under_load_there_are_far_fewer_commits_than_orders(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    bolt = await item(concurrent_client, 1000)

    async def buy_often() -> list[httpx.Response]:
        return [await order(concurrent_client, (bolt, 1)) for _ in range(10)]

    replies = [reply for ten in await asyncio.gather(*[buy_often() for _ in range(40)]) for reply in ten]
    assert outcomes(replies) == {"placed": 400}
    assert len(await commits(database_url)) <= 100


async def test_the_replies_of_one_commit_do_not_block_the_event_loop(
    concurrent_client: httpx.AsyncClient, database: Database
) -> None:
    bolt = await item(concurrent_client, 200)
    async with queue(database) as placement:
        orders = [asyncio.create_task(placement.join(PendingOrder(new(bolt), None, CLI))) for _ in range(200)]
        answered = [0]
        while answered[-1] < len(orders):
            await asyncio.sleep(0)
            answered.append(sum(order.done() for order in orders))
    assert max(after - before for before, after in pairwise(answered)) == REPLIES_PER_TURN


@pytest.mark.parametrize("flushes_max", [1, 2])
async def test_an_order_right_after_the_last_commit_is_not_forgotten(
    flushes_max: int, concurrent_client: httpx.AsyncClient, database: Database
) -> None:
    bolt = await item(concurrent_client, 100)
    async with queue(database, flushes_max=flushes_max) as placement, asyncio.timeout(5):
        for _ in range(20):
            await placement.join(PendingOrder(new(bolt), None, CLI))
    assert await stock(concurrent_client, bolt) == 80
