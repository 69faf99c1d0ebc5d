"""Orders over HTTP: what clients rely on."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from conftest import Client
from tests.support.app_helpers import connected, item, order, stock
from tests.support.consistency import discrepancies
from tests.support.reply_assertions import error, wrong_fields

Json = dict[str, Any]


async def test_a_placed_order_says_what_was_sold_at_what_price(client: Client) -> None:
    bolt, nut = await item(client, 10), await item(client, 10, name="Nut", price="0.05")
    placed = await order(
        client, (bolt, 2), (nut, 3), customer_id="c-7", reference="PO-17", metadata={"channel": "web"}
    )
    assert placed.status_code == 201, placed.text
    content = placed.json()
    assert UUID(content.pop("id")).version == 7
    created_at = content.pop("created_at")
    assert datetime.fromisoformat(created_at).utcoffset() is not None
    assert content == {
        "status": "placed",
        "customer_id": "c-7",
        "reference": "PO-17",
        "metadata": {"channel": "web"},
        "currency": "USD",
        "total": "20.13",
        "lines": [
            {"item_id": bolt["id"], "sku": bolt["sku"], "name": "Bolt", "quantity": 2,
             "unit_price": "9.99", "amount": "19.98"},
            {"item_id": nut["id"], "sku": nut["sku"], "name": "Nut", "quantity": 3,
             "unit_price": "0.05", "amount": "0.15"},
        ],
        "version": 1,
        "updated_at": created_at,
        "fulfilled_at": None,
        "cancelled_at": None,
        "cancel_reason": None,
    }  # fmt: skip


async def test_a_placed_order_is_found_at_its_location_with_the_same_content(client: Client) -> None:
    placed = await order(client, (await item(client, 5), 2), (await item(client, 5, price="0"), 1))
    assert placed.headers["Location"] == f"/orders/{placed.json()['id']}"
    read = await client.get(placed.headers["Location"])
    assert (read.status_code, read.json()) == (200, placed.json())
    assert read.headers["ETag"] == placed.headers["ETag"] == '"1"'


async def test_times_are_utc_with_a_z(client: Client) -> None:
    placed = await order(client, (await item(client, 1), 1))
    read = await client.get(placed.headers["Location"])
    assert placed.json()["created_at"].endswith("Z")
    assert read.json()["created_at"].endswith("Z")


async def test_a_known_version_is_not_sent_again(client: Client) -> None:
    placed = await order(client, (await item(client, 1), 1))
    again = await client.get(placed.headers["Location"], headers={"If-None-Match": placed.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("reference", [{}, {"reference": None}], ids=["omitted", "null"])
async def test_an_order_needs_no_reference(reference: Json, client: Client) -> None:
    placed = await order(client, (await item(client, 1), 1), **reference)
    assert placed.status_code == 201
    assert placed.json()["reference"] is None


async def test_an_item_can_be_named_by_its_sku(client: Client) -> None:
    bolt = await item(client, 5)
    lines = [{"sku": bolt["sku"], "quantity": 2}]
    placed = await client.post("/orders", json={"customer_id": "c-1", "lines": lines})
    assert placed.json()["lines"][0]["item_id"] == bolt["id"]
    assert await stock(client, bolt) == 3


async def test_lines_of_one_item_are_summed(client: Client) -> None:
    bolt = await item(client, 6)
    lines = [{"sku": bolt["sku"], "quantity": 2}, {"item_id": bolt["id"], "quantity": 4}]
    placed = await client.post("/orders", json={"customer_id": "c-1", "lines": lines})
    assert [(line["quantity"], line["amount"]) for line in placed.json()["lines"]] == [(6, "59.94")]
    assert await stock(client, bolt) == 0


async def test_an_order_beyond_the_stock_sells_nothing_and_names_every_short_line(client: Client) -> None:
    plenty, short, empty = await item(client, 9), await item(client, 2), await item(client, 0)
    refused = await order(client, (plenty, 1), (short, 3), (empty, 1))
    assert error(refused) == (409, "INSUFFICIENT_STOCK")
    assert refused.headers["X-Error-Code"] == "INSUFFICIENT_STOCK"
    assert refused.json()["error"]["details"] == [
        {"item_id": short["id"], "sku": short["sku"], "lines": [1], "requested": 3, "available": 2},
        {"item_id": empty["id"], "sku": empty["sku"], "lines": [2], "requested": 1, "available": 0},
    ]
    assert [await stock(client, each) for each in (plenty, short, empty)] == [9, 2, 0]
    assert (await client.get("/orders")).json()["data"] == []


async def test_every_unknown_item_is_named(client: Client) -> None:
    bolt = await item(client, 5)
    lines = [
        {"item_id": bolt["id"], "quantity": 1},
        {"item_id": str(uuid4()), "quantity": 1},
        {"sku": "NO-SUCH", "quantity": 1},
    ]
    refused = await client.post("/orders", json={"customer_id": "c-1", "lines": lines})
    assert error(refused) == (422, "UNKNOWN_ITEM")
    details = refused.json()["error"]["details"]
    assert [(d["field"], d["source"]) for d in details] == [
        ("/lines/1/item_id", "body"),
        ("/lines/2/sku", "body"),
    ]
    assert await stock(client, bolt) == 5


async def test_an_order_has_only_one_currency(client: Client) -> None:
    dollars, euros = await item(client, 5), await item(client, 5, currency="EUR")
    refused = await order(client, (dollars, 1), (euros, 1))
    assert error(refused) == (422, "MIXED_CURRENCIES")
    assert (await order(client, (euros, 1))).json()["currency"] == "EUR"


async def test_an_order_keeps_the_name_and_price_from_its_placement(client: Client) -> None:
    bolt = await item(client, 5)
    placed = await order(client, (bolt, 2))
    changed = await client.patch(
        f"/items/{bolt['id']}", json={"name": "Golden bolt", "price": "99", "sku": f"{bolt['sku']}-G"}
    )
    assert changed.status_code == 200
    assert (await client.get(placed.headers["Location"])).json() == placed.json()
    later = await order(client, (bolt, 1))
    assert (later.json()["lines"][0]["name"], later.json()["total"]) == ("Golden bolt", "99.00")


async def test_an_ordered_item_cannot_be_deleted(client: Client) -> None:
    bolt = await item(client, 1)
    await order(client, (bolt, 1))
    assert error(await client.delete(f"/items/{bolt['id']}")) == (409, "IN_USE")


async def test_the_largest_order_is_exact_to_the_cent(client: Client) -> None:
    items = [await item(client, 1_000_000, price="9999999999.99") for _ in range(100)]
    placed = await order(client, *[(each, 1_000_000) for each in items])
    assert placed.status_code == 201, placed.text
    assert placed.json()["total"] == "999999999999000000.00"
    assert (await client.get(placed.headers["Location"])).json() == placed.json()


async def test_a_hundred_lines_are_an_order_and_a_hundred_and_one_are_not(client: Client) -> None:
    bolt = await item(client, 200)
    assert (await order(client, *[(bolt, 1)] * 100)).status_code == 201
    assert wrong_fields(await order(client, *[(bolt, 1)] * 101)) == {"/lines"}
    assert wrong_fields(await order(client)) == {"/lines"}


async def test_a_line_has_one_to_a_million_units(client: Client) -> None:
    bolt = await item(client, 1_000_001)
    assert (await order(client, (bolt, 1_000_000))).status_code == 201
    assert (await order(client, (bolt, 1))).status_code == 201
    for quantity in (0, -1, 1_000_001, 2**63, 2**200, 1.0, "1", None, True):
        refused = await order(client, (bolt, quantity))  # type: ignore[arg-type]
        assert wrong_fields(refused) == {"/lines/0/quantity"}, quantity


async def test_a_line_names_its_item_once(client: Client) -> None:
    bolt = await item(client, 5)
    neither, both = {"quantity": 1}, {"quantity": 1, "item_id": bolt["id"], "sku": bolt["sku"]}
    refused = await client.post("/orders", json={"customer_id": "c-1", "lines": [neither, both]})
    assert wrong_fields(refused) == {"/lines/0", "/lines/1"}


async def test_every_wrong_field_is_listed(client: Client) -> None:
    lines = [{"sku": "A B", "quantity": 0}, {"item_id": "7", "quantity": 1}, {"sku": "A", "pieces": 1}]
    refused = await client.post(
        "/orders", json={"customer_id": "", "reference": "x" * 201, "lines": lines, "coupon": "FREE"}
    )
    assert wrong_fields(refused) == {
        "/customer_id",
        "/reference",
        "/coupon",
        "/lines/0/sku",
        "/lines/0/quantity",
        "/lines/1/item_id",
        "/lines/2/quantity",
        "/lines/2/pieces",
    }


async def test_an_order_commits_together_with_its_sale_movement_and_event(
    client: Client, database_url: str
) -> None:
    bolt = await item(client, 5)
    placed = (await order(client, (bolt, 2), reference="PO-1")).json()
    async with connected(database_url) as connection:
        sales = await connection.fetch(
            "select order_id::text, kind, amount::text, currency from transactions"
        )
        movement = await connection.fetchrow("select * from movements where cause = 'order'")
        event = await connection.fetchrow("select * from events where type = 'order.placed'")
        commits = await connection.fetchval(
            """select count(distinct xmin::text) from (
                 select xmin from orders union all select xmin from order_lines union all
                 select xmin from transactions union all
                 select xmin from events where type = 'order.placed' union all
                 select xmin from movements where cause = 'order') written"""
        )
    assert [tuple(sale) for sale in sales] == [(placed["id"], "sale", "19.98", "USD")]
    assert movement is not None
    assert (str(movement["order_id"]), str(movement["item_id"])) == (placed["id"], bolt["id"])
    assert (movement["delta"], movement["resulting_quantity"], movement["version"]) == (-2, 3, 2)
    assert event is not None
    assert event["subject"] == placed["id"]
    assert commits == 1
    assert await discrepancies(database_url, {placed["id"]: placed["total"]}) == []


async def test_the_event_has_the_order_as_in_the_reply_and_the_remaining_stock(
    client: Client, database: Any
) -> None:
    bolt, nut = await item(client, 5), await item(client, 9)
    placed = (await order(client, (bolt, 2), (nut, 1), metadata={"channel": "web"})).json()
    payload = await database.fetchval("select payload from events where subject = $1", placed["id"])
    assert payload.pop("stock") == [
        {"item_id": bolt["id"], "sku": bolt["sku"], "quantity": 3, "version": 2},
        {"item_id": nut["id"], "sku": nut["sku"], "quantity": 8, "version": 2},
    ]
    assert payload == placed


async def test_each_order_of_a_batch_has_the_stock_that_it_left(
    concurrent_client: httpx.AsyncClient, database: Any
) -> None:
    bolt = await item(concurrent_client, 40)
    await asyncio.gather(*[order(concurrent_client, (bolt, 1)) for _ in range(40)])
    rows = await database.fetch("select payload->'stock'->0 as level from events where type = 'order.placed'")
    levels = sorted((row["level"]["version"], row["level"]["quantity"]) for row in rows)
    assert levels == [(version, 41 - version) for version in range(2, 42)]


async def test_a_short_item_has_the_numbers_of_all_its_lines(client: Client) -> None:
    short, plenty = await item(client, 2), await item(client, 9)
    refused = await order(client, (short, 1), (plenty, 1), (short, 2))
    assert refused.json()["error"]["details"] == [
        {"item_id": short["id"], "sku": short["sku"], "lines": [0, 2], "requested": 3, "available": 2}
    ]


async def test_an_order_is_a_movement_of_its_items(client: Client) -> None:
    bolt = await item(client, 5)
    placed = (await order(client, (bolt, 2))).json()
    latest, first = (await client.get(f"/items/{bolt['id']}/movements")).json()["data"]
    assert (latest["cause"], latest["delta"], latest["resulting_quantity"]) == ("order", -2, 3)
    assert latest["order_id"] == placed["id"]
    assert first["delta"] == 5
    assert (await client.get(f"/items/{bolt['id']}")).headers["ETag"] == '"2"'


async def test_an_order_that_does_not_exist_is_not_found(client: Client) -> None:
    for identity in (uuid4(), "7", "%00"):
        assert (await client.get(f"/orders/{identity}")).status_code in {404, 422}
    assert error(await client.get(f"/orders/{uuid4()}")) == (404, "NOT_FOUND")


async def test_placing_requires_the_scope_to_write_orders(client: Client, make_key: Any) -> None:
    bolt = await item(client, 1)
    client.headers["Authorization"] = f"Bearer {await make_key('orders:read', 'items:read')}"
    assert error(await order(client, (bolt, 1))) == (403, "FORBIDDEN")
    assert (await client.get("/orders")).status_code == 200
    assert await stock(client, bolt) == 1
