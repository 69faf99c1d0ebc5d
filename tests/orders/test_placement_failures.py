"""Group commit with failures: nothing acknowledged is lost, and every order is answered."""

import asyncio
import signal
from functools import partial
from pathlib import Path
from random import Random

import httpx
import pytest
from msgspec.structs import replace

from service.database.database import Database
from service.errors import Overloaded
from service.events.journal import CLI
from service.orders.pending import PendingOrder
from service.orders.schemas import Order
from service.settings import Settings
from tests.support.app_helpers import (
    connected,
    eventually,
    item,
    locked,
    order,
    running,
    stock,
    wait_for_locks,
)
from tests.support.consistency import discrepancies
from tests.support.depot_process import depot_serve
from tests.support.placement import new, outcomes, queue, settle, totals

POISON = "alter table orders add constraint no_poison check (customer_id <> 'poison')"
LOSES = """
create sequence tries;
create function lose() returns trigger language plpgsql as $$ begin
  perform nextval('tries');  -- which no rollback undoes
  raise deadlock_detected;
end $$;
create trigger lose before insert on orders for each row when (new.customer_id = 'loser')
  execute function lose();"""
SEED = 20


@pytest.mark.parametrize("size", [2, 20])
async def test_a_poisoned_order_fails_alone(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, size: int
) -> None:
    bolt = await item(concurrent_client, 20)
    await database.fetch(POISON)
    async with queue(database, flushes_max=1) as placement:
        settled = await settle(placement, [new(bolt, "poison" if n == 1 else "c-1") for n in range(size)])
    assert [n for n, outcome in enumerate(settled) if not isinstance(outcome, Order)] == [1]
    assert await stock(concurrent_client, bolt) == 20 - (size - 1)
    assert await discrepancies(database_url) == []


async def test_the_error_of_a_poisoned_order_does_not_mention_the_database(
    concurrent_client: httpx.AsyncClient, database: Database
) -> None:
    bolt = await item(concurrent_client, 20)
    await database.fetch(POISON)
    refused = await order(concurrent_client, (bolt, 1), customer_id="poison")
    assert (refused.status_code, refused.headers["X-Error-Code"]) == (500, "INTERNAL_ERROR")
    assert "poison" not in refused.text
    assert (await order(concurrent_client, (bolt, 1))).status_code == 201


async def test_the_queue_is_bounded(concurrent_client: httpx.AsyncClient, database: Database) -> None:
    bolt = await item(concurrent_client, 20)
    async with queue(database, queue_max=5) as placement:
        settled = await settle(placement, [new(bolt)] * 20)
        assert [type(outcome) for outcome in settled] == [Order] * 5 + [Overloaded] * 15
        assert isinstance(await placement.join(PendingOrder(new(bolt), None, CLI)), Order)


async def test_the_number_of_concurrent_commits_is_limited(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str
) -> None:
    bolt = await item(concurrent_client, 20)
    async with (
        queue(database, batch_max=1, flushes_max=2) as placement,
        asyncio.TaskGroup() as buyers,
        locked(database_url, bolt) as connection,
    ):
        for _ in range(5):
            buyers.create_task(placement.join(PendingOrder(new(bolt), None, CLI)))
        await wait_for_locks(connection, 2)
        assert database.pool.in_use == 2


async def test_an_order_beyond_the_queue_is_rejected_immediately(
    settings: Settings, key: str, database_url: str
) -> None:
    settings = replace(settings, placement_queue_max=5, placement_batch_max=1)
    async with running(settings, key) as concurrent_client:
        bolt = await item(concurrent_client, 20)
        async with locked(database_url, bolt):
            buyers = [asyncio.create_task(order(concurrent_client, (bolt, 1))) for _ in range(20)]
            await eventually(partial(answered, buyers, 13))
            refused = [buyer.result() for buyer in buyers if buyer.done()]
            assert {(reply.headers["X-Error-Code"], reply.headers["Retry-After"]) for reply in refused} == {
                ("OVERLOADED", "1")
            }
        replies = await asyncio.gather(*buyers)
    assert set(outcomes(replies)) == {"OVERLOADED", "placed"}
    assert 5 <= outcomes(replies)["placed"] <= 7  # five in the queue, and up to two that a commit has taken


async def test_an_order_that_loses_a_deadlock_is_retried(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    first, second = await item(concurrent_client, 5), await item(concurrent_client, 5)
    async with locked(database_url, second) as rival:
        await rival.execute(
            "set local deadlock_timeout = '1min'"
        )  # the other transaction notices the deadlock first, and loses
        buyer = asyncio.create_task(order(concurrent_client, (first, 1), (second, 1)))
        await wait_for_locks(rival, 1)
        await rival.execute("update items set name = 'Screw' where id = $1", first["id"])
    assert outcomes([await buyer]) == {"placed": 1}
    assert await discrepancies(database_url, totals([await buyer])) == []


async def test_an_order_that_loses_every_deadlock_gets_an_error(
    concurrent_client: httpx.AsyncClient, database: Database
) -> None:
    bolt = await item(concurrent_client, 20)
    async with database.session() as session:
        await session.execute(LOSES)
    refused = await order(concurrent_client, (bolt, 1), customer_id="loser")
    assert refused.status_code >= 500
    assert await database.fetchval("select last_value from tries") == 3
    assert (await order(concurrent_client, (bolt, 1))).status_code == 201


@pytest.mark.parametrize("lock_seconds", [0.1, 60])
async def test_orders_in_flight_when_the_application_ends_are_answered(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, lock_seconds: float
) -> None:
    bolt = await item(concurrent_client, 20)

    async def place_and_end() -> list["asyncio.Task[Order]"]:
        async with queue(database, batch_max=4, lock_seconds=lock_seconds) as placement:
            buyers = [
                asyncio.create_task(placement.join(PendingOrder(new(bolt), None, CLI))) for _ in range(20)
            ]
            await asyncio.sleep(0)  # they enter the queue
        return buyers

    async with locked(database_url, bolt) as holder:
        end = asyncio.create_task(place_and_end())
        await wait_for_locks(holder, 2)
        assert not end.done()
    async with asyncio.timeout(5):
        placed = await asyncio.gather(*await end)
    assert len({order.id for order in placed}) == 20


async def test_a_server_that_is_stopped_answers_its_pending_orders(
    concurrent_client: httpx.AsyncClient, key: str, database_url: str, tmp_path: Path
) -> None:
    bolt = await item(concurrent_client, 20)
    one_by_one = {"DEPOT_PLACEMENT_BATCH_MAX": "1", "DEPOT_PLACEMENT_FLUSHES_MAX": "8"}
    with depot_serve(database_url, tmp_path / "home", DEPOT_DRAIN_SECONDS="0", **one_by_one) as server:
        async with server.client(key) as client:
            async with locked(database_url, bolt) as holder:
                buyers = [asyncio.create_task(order(client, (bolt, 1))) for _ in range(8)]
                await wait_for_locks(holder, 8)
                server.process.send_signal(signal.SIGTERM)
                await eventually(partial(closed, server.url))
            assert outcomes(await asyncio.gather(*buyers)) == {"placed": 8}
        assert server.process.wait(timeout=10) == 0


async def test_connections_that_break_under_load_lose_no_acknowledged_order(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    items = [await item(concurrent_client, 100_000) for _ in range(3)]
    replies: list[httpx.Response] = []
    random = Random(SEED)
    over = asyncio.Event()

    async def buy() -> None:
        while not over.is_set():
            replies.append(
                await order(
                    concurrent_client, *[(each, random.randint(1, 3)) for each in random.sample(items, 2)]
                )
            )

    buyers = [asyncio.create_task(buy()) for _ in range(16)]
    async with connected(database_url) as killer:
        for _ in range(15):
            enough = outcomes(replies)["placed"] + 20
            await eventually(partial(more_than, enough, replies))
            await killer.execute(BREAK_CONNECTIONS)
    over.set()
    await asyncio.gather(*buyers)
    assert set(outcomes(replies)) == {"placed", "DATABASE_UNAVAILABLE"}
    assert await discrepancies(database_url, totals(replies)) == []


BREAK_CONNECTIONS = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name = 'depot'"""


async def more_than(enough: int, replies: list[httpx.Response]) -> bool:
    return outcomes(replies)["placed"] > enough


async def answered(buyers: list["asyncio.Task[httpx.Response]"], how_many: int) -> bool:
    return sum(buyer.done() for buyer in buyers) >= how_many


async def closed(url: str) -> bool:
    """Return whether nobody listens there any more."""
    try:
        async with httpx.AsyncClient() as client:
            await client.get(url)
    except httpx.TransportError:
        return True
    return False
