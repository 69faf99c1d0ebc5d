"""Stock: every change is a movement, their sum is the quantity, and it is never negative."""

import asyncio
import random
from typing import Any

import httpx
import pytest

from conftest import Client
from tests.support.app_helpers import item as create_item
from tests.support.app_helpers import locked, stock, wait_for_locks
from tests.support.reply_assertions import all_rows, assert_refused, wrong_fields

MOST = 2_147_483_647


@pytest.fixture
async def item(client: Client) -> str:
    new = {"sku": "BOLT", "name": "Bolt", "price": "9.99", "quantity": 10}
    location: str = (await client.post("/items", json=new)).headers["Location"]
    return location


async def test_stock_is_added_and_removed(client: Client, item: str) -> None:
    assert (await client.post(f"{item}/stock", json={"delta": 5})).json()["quantity"] == 15
    reply = await client.post(f"{item}/stock", json={"delta": -15, "reason": "damaged"})
    assert (reply.status_code, reply.json()["quantity"], reply.headers["ETag"]) == (200, 0, '"3"')
    assert reply.json() == (await client.get(item)).json()


async def test_every_change_is_a_movement_with_its_cause(client: Client, item: str) -> None:
    await client.post(f"{item}/stock", json={"delta": -3, "reason": "damaged"})
    line = {"sku": "BOLT", "quantity": 2}
    order = (await client.post("/orders", json={"customer_id": "c-1", "lines": [line]})).json()
    await client.patch(item, json={"quantity": 6})
    movements = await all_rows(client, f"{item}/movements", limit=1)
    assert all(movement.pop("created_at").endswith("Z") for movement in movements)
    assert movements == [
        movement(4, "set", 1, 6),
        movement(3, "order", -2, 5, order_id=order["id"]),
        movement(2, "adjust", -3, 7, reason="damaged"),
        movement(1, "set", 10, 10),
    ]


def movement(version: int, cause: str, delta: int, resulting: int, **more: str) -> dict[str, Any]:
    known = {"version": version, "cause": cause, "delta": delta, "resulting_quantity": resulting}
    return {**known, "reason": None, "order_id": None, **more}


async def test_a_movement_has_the_time_of_its_change(client: Client, item: str) -> None:
    created = (await client.get(item)).json()
    changed = (await client.post(f"{item}/stock", json={"delta": -3})).json()
    times = [movement["created_at"] for movement in await all_rows(client, f"{item}/movements")]
    assert times == [changed["updated_at"], created["created_at"]]


async def test_an_item_that_never_had_stock_has_no_movements(client: Client) -> None:
    item = (await client.post("/items", json={"sku": "NUT", "name": "Nut", "price": "1"})).headers["Location"]
    assert (await client.get(f"{item}/movements")).json() == {"data": [], "next_cursor": None}


async def test_stock_never_falls_below_zero(client: Client, item: str) -> None:
    error = assert_refused(await client.post(f"{item}/stock", json={"delta": -11}), 409, "INSUFFICIENT_STOCK")
    identity = item.removeprefix("/items/")
    assert error["details"] == [{"item_id": identity, "sku": "BOLT", "requested": 11, "available": 10}]
    assert (await client.get(item)).json()["version"] == 1


@pytest.mark.parametrize("delta", [MOST, MOST - 9])
async def test_stock_never_exceeds_its_bound(client: Client, item: str, delta: int) -> None:
    assert wrong_fields(await client.post(f"{item}/stock", json={"delta": delta})) == {"/delta"}
    assert (await client.get(item)).json()["quantity"] == 10


async def test_stock_may_reach_its_bounds(client: Client, item: str) -> None:
    assert (await client.post(f"{item}/stock", json={"delta": MOST - 10})).json()["quantity"] == MOST
    assert (await client.post(f"{item}/stock", json={"delta": -MOST})).json()["quantity"] == 0


@pytest.mark.parametrize("delta", [0, "1", 1.0, True, None, MOST + 1, -MOST - 1, 10**30])
async def test_a_delta_is_an_integer_within_its_bounds(client: Client, item: str, delta: object) -> None:
    assert wrong_fields(await client.post(f"{item}/stock", json={"delta": delta})) == {"/delta"}


async def test_stock_of_an_unknown_item_is_not_found(client: Client) -> None:
    nowhere = "/items/00000000-0000-7000-8000-000000000000"
    assert_refused(await client.post(f"{nowhere}/stock", json={"delta": 1}), 404, "NOT_FOUND")
    assert_refused(await client.get(f"{nowhere}/movements"), 404, "NOT_FOUND")


async def test_concurrent_buyers_never_get_more_than_the_stock(
    concurrent_client: httpx.AsyncClient, item: str
) -> None:
    takes = [concurrent_client.post(f"{item}/stock", json={"delta": -1}) for _ in range(40)]
    statuses = [reply.status_code for reply in await asyncio.gather(*takes)]
    assert (statuses.count(200), statuses.count(409)) == (10, 30)
    assert (await concurrent_client.get(item)).json()["quantity"] == 0


@pytest.mark.parametrize(
    ("path", "change", "headers"),
    [
        ("{item}/stock", {"delta": -3}, {}),
        ("{item}/stock", {"delta": -3}, {"Idempotency-Key": "k-1"}),
        ("/stock", {"changes": [{"sku": "BOLT", "delta": -3}]}, {}),
    ],
)
async def test_units_that_are_added_while_a_change_waits_are_available_to_it(
    concurrent_client: httpx.AsyncClient,
    database_url: str,
    path: str,
    change: dict[str, Any],
    headers: dict[str, str],
) -> None:
    bolt = await create_item(concurrent_client, 0, sku="BOLT")
    async with locked(database_url, bolt) as connection:
        path = path.format(item=f"/items/{bolt['id']}")
        taking = asyncio.create_task(concurrent_client.post(path, json=change, headers=headers))
        await wait_for_locks(connection, 1)
        await connection.execute("update items set quantity = 5")
    assert (await taking).status_code == 200
    assert await stock(concurrent_client, bolt) == 2


async def test_movements_add_up_when_many_clients_change_the_stock_concurrently(
    concurrent_client: httpx.AsyncClient, item: str
) -> None:
    """Interleave patches that set the quantity, adjustments and orders of one item."""

    def change(number: int) -> Any:
        if number % 3 == 0:
            return concurrent_client.patch(item, json={"quantity": max(number, 20)})
        if number % 3 == 1:
            return concurrent_client.post(f"{item}/stock", json={"delta": random.choice([-4, -1, 2, 5])})
        lines = [{"sku": "BOLT", "quantity": 2}]
        return concurrent_client.post("/orders", json={"customer_id": "c-1", "lines": lines})

    replies = await asyncio.gather(*(change(number) for number in range(120)))
    assert {reply.status_code for reply in replies} <= {200, 201, 409}
    now = (await concurrent_client.get(item)).json()
    movements = (await all_rows(concurrent_client, f"{item}/movements", limit=50))[::-1]
    total = 0
    for moved in movements:
        total += moved["delta"]
        assert moved["resulting_quantity"] == total >= 0
    assert now["quantity"] == total
    assert {moved["cause"] for moved in movements} == {"set", "adjust", "order"}
