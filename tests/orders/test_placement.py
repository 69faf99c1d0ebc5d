"""Group commit under load, with failures: nothing is oversold, nothing acknowledged is lost, nobody hangs."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from random import Random
from uuid import UUID

import asyncpg
import httpx
import pytest
from msgspec.structs import replace

from service.database.batch import REPLIES_PER_TURN
from service.database.database import Database
from service.errors import Overloaded
from service.events.journal import CLI
from service.items.statements import ADJUST
from service.orders import statements
from service.orders.allocation import UnknownItem
from service.orders.deferred import POLL_INTERVAL_SECONDS
from service.orders.pending import PendingOrder
from service.orders.placement import PlacementQueue
from service.orders.schemas import Order, OrderCreate, OrderLineCreate
from service.settings import Settings
from tests.support.app_helpers import (
    Json,
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

POISON = "alter table orders add constraint no_poison check (customer_id <> 'poison')"
LOSES = """
create sequence tries;
create function lose() returns trigger language plpgsql as $$ begin
  perform nextval('tries');  -- which no rollback takes back
  raise deadlock_detected;
end $$;
create trigger lose before insert on orders for each row when (new.customer_id = 'loser')
  execute function lose();"""
SEED = 20


@asynccontextmanager
async def queue(
    database: Database, *, lock_seconds: float = 60, held_seconds: float = 60, **limits: int
) -> AsyncIterator[PlacementQueue]:
    """By default with all patience for items that others hold."""
    named = {f"placement_{name}": value for name, value in limits.items()}
    seconds = {"placement_lock_seconds": lock_seconds, "statement_timeout_seconds": held_seconds}
    placement = PlacementQueue(database, Settings(**seconds, **named))  # type: ignore[arg-type]  # as the names say
    async with placement.open():
        yield placement


def new(item: Json, customer: str = "c-1") -> OrderCreate:
    return OrderCreate(customer_id=customer, lines=[OrderLineCreate(quantity=1, item_id=UUID(item["id"]))])


async def settle(placement: PlacementQueue, orders: Iterable[OrderCreate]) -> list[Order | BaseException]:
    """Place the orders at once. What is placed in one turn of the event loop waits for the same commit."""
    return await asyncio.gather(
        *[placement.join(PendingOrder(order, None, CLI)) for order in orders], return_exceptions=True
    )


def outcomes(replies: Iterable[httpx.Response]) -> Counter[str]:
    """How often each came: `placed`, or the code of an error."""
    return Counter(
        "placed" if reply.status_code == 201 else reply.headers["X-Error-Code"] for reply in replies
    )


def totals(replies: Iterable[httpx.Response]) -> dict[str, str]:
    """What the buyers were told is placed."""
    return {reply.json()["id"]: reply.json()["total"] for reply in replies if reply.status_code == 201}


async def commits(database_url: str) -> list[int]:
    """How many orders each commit placed: those of one commit have one time."""
    async with connected(database_url) as connection:
        rows = await connection.fetch("select count(*) from orders group by created_at order by created_at")
    return [count for (count,) in rows]


# Buyers at the same time


async def test_two_hundred_buyers_of_fifty_pieces_get_exactly_fifty(
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


async def test_orders_that_cross_each_other_do_not_lock_up(
    settings: Settings, key: str, database_url: str
) -> None:
    random = Random(SEED)
    async with running(settings, key) as one, running(settings, key) as other:
        items = [await item(one, 500) for _ in range(6)]
        baskets = [[(each, 1) for each in random.sample(items, 3)] for _ in range(200)]
        replies = await asyncio.gather(*[order(random.choice([one, other]), *basket) for basket in baskets])
    assert outcomes(replies) == {"placed": 200}
    assert await discrepancies(database_url, totals(replies)) == []


async def test_orders_and_changes_of_stock_at_the_same_time_keep_the_books(
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


async def test_an_order_counts_the_pieces_that_are_left_once_it_is_its_turn(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    bolt = await item(concurrent_client, 1)
    broken = {
        "item_ids": [UUID(bolt["id"])],
        "deltas": [-1],
        "versions": [None],
        "reasons": ["the last one broke"],
        "actors": [CLI.actor],
        "request_ids": [CLI.request_id],
    }
    async with locked(database_url, bolt) as holder:
        await holder.execute(*ADJUST(**broken))
        buyer = asyncio.create_task(order(concurrent_client, (bolt, 1)))
        await wait_for_locks(holder, 1)
    assert outcomes([await buyer]) == {"INSUFFICIENT_STOCK": 1}
    assert await discrepancies(database_url) == []


async def test_items_are_locked_in_the_order_of_their_ids_whatever_that_of_the_lines(
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


async def test_nobody_else_sells_an_item_between_the_look_at_its_stock_and_the_commit(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    bolt = await item(concurrent_client, 5)
    async with connected(database_url) as holder, holder.transaction():
        await holder.execute("lock table orders in exclusive mode")
        buyer = asyncio.create_task(order(concurrent_client, (bolt, 1)))
        await wait_for_locks(holder, 1)  # it has seen the stock, and has yet to write
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with holder.transaction():
                await holder.execute("select 1 from items for no key update nowait")
    assert outcomes([await buyer]) == {"placed": 1}


# One commit for many


async def test_orders_that_arrive_together_share_one_commit(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str
) -> None:
    bolt = await item(concurrent_client, 200)
    async with queue(database) as placement:
        await settle(placement, [new(bolt)] * 200)
    assert await commits(database_url) == [200]


async def test_a_commit_has_its_limit(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str
) -> None:
    bolt = await item(concurrent_client, 25)
    async with queue(database, batch_max=10) as placement:
        await settle(placement, [new(bolt)] * 25)
    assert sorted(await commits(database_url)) == [5, 10, 10]


async def test_under_load_there_are_far_fewer_commits_than_orders(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    bolt = await item(concurrent_client, 1000)

    async def buy_often() -> list[httpx.Response]:
        return [await order(concurrent_client, (bolt, 1)) for _ in range(10)]

    replies = [reply for ten in await asyncio.gather(*[buy_often() for _ in range(40)]) for reply in ten]
    assert outcomes(replies) == {"placed": 400}
    assert len(await commits(database_url)) <= 100


async def test_the_answers_of_one_commit_leave_the_event_loop_turns_for_others(
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


# Items that others hold for long


async def test_who_orders_an_item_that_is_held_for_long_keeps_nobody_else_waiting(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str
) -> None:
    held, free = await item(concurrent_client, 9), await item(concurrent_client, 9)
    by_sku = OrderCreate(customer_id="c-1", lines=[OrderLineCreate(quantity=1, sku=held["sku"])])
    unknown = OrderCreate(customer_id="c-1", lines=[OrderLineCreate(quantity=1, sku="no-such-item")])
    async with queue(database, lock_seconds=0.01, flushes_max=1) as placement:
        async with locked(database_url, held):
            waiting = asyncio.create_task(settle(placement, [new(held), by_sku]))
            others = await asyncio.wait_for(settle(placement, [new(free), unknown, new(free)]), 5)
            assert [type(outcome) for outcome in others] == [Order, UnknownItem, Order]
            again = asyncio.create_task(settle(placement, [new(held)]))
            for _ in range(5):
                assert await asyncio.wait_for(settle(placement, [new(free)]), 5) != []
            assert not waiting.done()
            assert not again.done()
        placed = [*await waiting, *await again]
    assert [type(outcome) for outcome in placed] == [Order] * 3
    assert await discrepancies(database_url) == []


async def test_patience_for_an_item_that_is_held_ends(
    concurrent_client: httpx.AsyncClient,
    database: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bolt = await item(concurrent_client, 9)
    fetch, looks, looked = database.fetch, 0, asyncio.Event()

    async def counted(statement: str, *arguments: object) -> list[asyncpg.Record]:
        nonlocal looks
        if statement == statements.SELECT_LOCKED_ITEMS:
            looks += 1
            looked.set()
        return await fetch(statement, *arguments)

    monkeypatch.setattr(database, "fetch", counted)
    async with (
        queue(database, lock_seconds=0.01, held_seconds=0.2, queue_max=2) as placement,
        locked(database_url, bolt),
        asyncio.timeout(5),
    ):
        outcomes = asyncio.create_task(settle(placement, [new(bolt)] * 2))
        await looked.wait()
        with pytest.raises(Overloaded):  # those who wait apart are counted too
            await placement.join(PendingOrder(new(bolt), None, CLI))
        assert [type(outcome) for outcome in await outcomes] == [Overloaded] * 2
    assert looks <= 0.2 / POLL_INTERVAL_SECONDS + 2
    assert await stock(concurrent_client, bolt) == 9


async def test_what_befalls_the_database_meanwhile_is_their_answer(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str
) -> None:
    bolt = await item(concurrent_client, 9)
    async with queue(database, lock_seconds=0.01) as placement:
        async with locked(database_url, bolt) as holder:
            outcomes = asyncio.create_task(settle(placement, [new(bolt)]))
            await asyncio.sleep(0.1)
            await holder.execute("alter table items rename column sku to was_sku")
        [outcome] = await asyncio.wait_for(outcomes, 5)
    assert isinstance(outcome, asyncpg.PostgresError)


# Failures


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


async def test_a_poisoned_order_is_an_error_that_says_nothing_of_the_database(
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


async def test_so_many_commits_are_under_way_and_no_more(
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


async def test_beyond_the_queue_an_order_is_told_at_once_to_come_back(
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
    assert 5 <= outcomes(replies)["placed"] <= 7  # five in the queue, and up to two at the database already


async def test_an_order_that_loses_a_deadlock_is_tried_again(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    first, second = await item(concurrent_client, 5), await item(concurrent_client, 5)
    async with locked(database_url, second) as rival:
        await rival.execute("set local deadlock_timeout = '1min'")  # the other side notices first, and loses
        buyer = asyncio.create_task(order(concurrent_client, (first, 1), (second, 1)))
        await wait_for_locks(rival, 1)
        await rival.execute("update items set name = 'Screw' where id = $1", first["id"])
    assert outcomes([await buyer]) == {"placed": 1}
    assert await discrepancies(database_url, totals([await buyer])) == []


async def test_an_order_that_loses_every_time_is_told_so(
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
            await asyncio.sleep(0)  # their turn to get into the queue
        return buyers

    async with locked(database_url, bolt) as holder:
        end = asyncio.create_task(place_and_end())
        await wait_for_locks(holder, 2)
        assert not end.done()
    async with asyncio.timeout(5):
        placed = await asyncio.gather(*await end)
    assert len({order.id for order in placed}) == 20


async def test_a_server_told_to_stop_answers_the_orders_it_has(
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


async def test_connections_that_break_in_a_storm_lose_nothing_acknowledged(
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
    """Whether nobody listens there any more."""
    try:
        async with httpx.AsyncClient() as client:
            await client.get(url)
    except httpx.TransportError:
        return True
    return False
