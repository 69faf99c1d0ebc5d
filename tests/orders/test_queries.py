"""Orders are listed page by page, filtered by customer, status, reference and time."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from conftest import Client
from tests.support.app_helpers import item, order
from tests.support.reply_assertions import error, wrong_fields


async def test_orders_are_listed_newest_first_page_by_page(client: Client) -> None:
    bolt = await item(client, 10)
    placed = [(await order(client, (bolt, 1))).json() for _ in range(5)]
    seen, cursor = [], None
    for size in (2, 2, 1):
        page = (
            await client.get("/orders", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        ).json()
        assert len(page["data"]) == size
        seen += page["data"]
        cursor = page["next_cursor"]
        await order(client, (bolt, 1))  # a new order does not shift the later pages
    assert cursor is None
    assert seen == placed[::-1]


async def test_orders_are_listed_by_customer_and_by_status(client: Client) -> None:
    bolt = await item(client, 10)
    mine = [(await order(client, (bolt, 1), customer_id="me")).json()["id"] for _ in range(2)]
    await order(client, (bolt, 1), customer_id="you")

    async def found(**filters: str) -> list[str]:
        return [each["id"] for each in (await client.get("/orders", params=filters)).json()["data"]]

    assert await found(customer_id="me") == mine[::-1]
    assert await found(customer_id="me", status="placed") == mine[::-1]
    assert await found(customer_id="nobody") == []
    assert await found(status="cancelled") == []
    assert len(await found(status="placed")) == 3


async def test_orders_are_found_by_reference(client: Client) -> None:
    bolt = await item(client, 10)
    one = (await order(client, (bolt, 1), reference="PO-1")).json()
    await order(client, (bolt, 1), reference="PO-2")
    await order(client, (bolt, 1))
    assert (await client.get("/orders?reference=PO-1")).json()["data"] == [one]
    assert (await client.get("/orders?reference=PO-3")).json()["data"] == []


async def test_orders_are_filtered_by_a_period_with_an_exclusive_end(client: Client) -> None:
    bolt = await item(client, 10)
    first, second, third = [(await order(client, (bolt, 1))).json() for _ in range(3)]

    async def found(**period: str) -> list[str]:
        reply = await client.get("/orders", params=period)
        assert reply.status_code == 200, reply.text
        return [each["id"] for each in reply.json()["data"]]

    begin, end = second["created_at"], third["created_at"]
    assert await found(**{"from": begin}) == [third["id"], second["id"]]
    assert await found(to=end) == [second["id"], first["id"]]
    assert await found(**{"from": begin, "to": end, "status": "placed"}) == [second["id"]]
    assert await found(**{"from": end, "to": begin}) == []
    assert await found(to="2026-01-01") == []
    assert len(await found(**{"from": "0001-01-01", "to": "9999-12-31T23:59:59Z"})) == 3


@pytest.mark.parametrize("skew", ["4 minutes", "-4 minutes"])
async def test_a_period_follows_the_clock_of_the_database(client: Client, database: Any, skew: str) -> None:
    placed = (await order(client, (await item(client, 1), 1))).json()
    shift = f"update orders set created_at = created_at - interval '{skew}' returning created_at"
    placed_at = (await database.fetchval(shift)).isoformat()
    listed = await client.get("/orders", params={"from": placed_at})
    assert [each["id"] for each in listed.json()["data"]] == [placed["id"]]
    later = (datetime.fromisoformat(placed_at) + timedelta(microseconds=1)).isoformat()
    assert len((await client.get("/orders", params={"to": later})).json()["data"]) == 1
    assert (await client.get("/orders", params={"to": placed_at})).json()["data"] == []


async def test_a_page_of_a_customers_orders_continues_with_the_same_customer(client: Client) -> None:
    bolt = await item(client, 10)
    for customer in ("me", "you", "me", "you"):
        await order(client, (bolt, 1), customer_id=customer)
    first = (await client.get("/orders?customer_id=me&limit=1")).json()
    rest = await client.get(f"/orders?customer_id=me&cursor={first['next_cursor']}")
    assert [each["customer_id"] for each in rest.json()["data"]] == ["me"]
    elsewhere = await client.get(f"/orders?customer_id=you&cursor={first['next_cursor']}")
    assert error(elsewhere) == (400, "INVALID_CURSOR")


async def test_an_invalid_filter_is_rejected(client: Client) -> None:
    assert wrong_fields(await client.get("/orders?status=lost"), "query") == {"/status"}
    assert wrong_fields(await client.get("/orders?customer_id=%00"), "query") == {"/customer_id"}
    assert wrong_fields(await client.get("/orders?limit=0"), "query") == {"/limit"}
    assert wrong_fields(await client.get("/orders?from=yesterday&to=7"), "query") == {"/from", "/to"}
    assert wrong_fields(await client.get(f"/orders?reference={'x' * 201}"), "query") == {"/reference"}
    assert error(await client.get("/orders?cursor=forged")) == (400, "INVALID_CURSOR")
