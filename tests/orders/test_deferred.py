"""Orders of items that another transaction locks for long wait separately from all other orders."""

import asyncio

import asyncpg
import httpx
import pytest

from service.database.database import Database
from service.errors import Overloaded
from service.events.journal import CLI
from service.orders import statements
from service.orders.allocation import UnknownItem
from service.orders.deferred import POLL_INTERVAL_SECONDS
from service.orders.pending import PendingOrder
from service.orders.schemas import Order, OrderCreate, OrderLineCreate
from tests.support.app_helpers import (
    item,
    locked,
    stock,
)
from tests.support.consistency import discrepancies
from tests.support.placement import new, queue, settle


async def test_an_order_of_a_locked_item_delays_no_other_order(
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


async def test_an_order_of_a_locked_item_is_rejected_at_its_deadline(
    concurrent_client: httpx.AsyncClient,
    database: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bolt = await item(concurrent_client, 9)
    fetch, polls, polled = database.fetch, 0, asyncio.Event()

    async def counted(statement: str, *arguments: object) -> list[asyncpg.Record]:
        nonlocal polls
        if statement == statements.SELECT_LOCKED_ITEMS:
            polls += 1
            polled.set()
        return await fetch(statement, *arguments)

    monkeypatch.setattr(database, "fetch", counted)
    async with (
        queue(database, lock_seconds=0.01, held_seconds=0.2, queue_max=2) as placement,
        locked(database_url, bolt),
        asyncio.timeout(5),
    ):
        outcomes = asyncio.create_task(settle(placement, [new(bolt)] * 2))
        await polled.wait()
        with pytest.raises(Overloaded):  # deferred orders count too
            await placement.join(PendingOrder(new(bolt), None, CLI))
        assert [type(outcome) for outcome in await outcomes] == [Overloaded] * 2
    assert polls <= 0.2 / POLL_INTERVAL_SECONDS + 2
    assert await stock(concurrent_client, bolt) == 9


async def test_a_database_error_while_orders_wait_is_their_outcome(
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
