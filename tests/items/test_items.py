"""Items over HTTP."""

from typing import Any
from uuid import UUID

import pytest

from conftest import Client
from tests.support.reply_assertions import all_rows, assert_refused

BOLT = {"sku": "BOLT-M8", "name": "Bolt", "price": "9.99", "quantity": 5}
NOWHERE = "00000000-0000-7000-8000-000000000000"


async def create(client: Client, **fields: Any) -> dict[str, Any]:
    reply = await client.post("/items", json={**BOLT, **fields})
    assert reply.status_code == 201, reply.text
    item: dict[str, Any] = reply.json()
    return item


async def test_a_created_item_can_be_read(client: Client) -> None:
    created = await client.post("/items", json=BOLT)
    assert created.status_code == 201, created.text
    read = await client.get(created.headers["Location"])
    assert read.json() == created.json()
    assert read.headers["ETag"] == '"1"'


async def test_a_field_that_is_not_sent_has_its_default(client: Client) -> None:
    item = await create(client)
    assert UUID(item.pop("id")).version == 7
    assert item.pop("created_at") == item.pop("updated_at")
    known = {"description": None, "currency": "USD", "attributes": None, "archived": False, "low_stock_at": 5}
    assert item == {**BOLT, **known, "version": 1}


async def test_times_are_utc_with_a_z(client: Client) -> None:
    item = await create(client)
    assert item["created_at"].endswith("Z")
    assert "T" in item["created_at"]


async def test_nullable_fields_may_be_null(client: Client) -> None:
    item = await create(client, description=None, attributes=None)
    assert (item["description"], item["attributes"]) == (None, None)


async def test_a_sku_is_unique(client: Client) -> None:
    await create(client)
    assert_refused(await client.post("/items", json={**BOLT, "name": "Other"}), 409, "DUPLICATE_SKU")
    other = await create(client, sku="NUT")
    assert_refused(
        await client.patch(f"/items/{other['id']}", json={"sku": BOLT["sku"]}), 409, "DUPLICATE_SKU"
    )
    assert len(await all_rows(client, "/items")) == 2


async def test_text_is_counted_in_characters(client: Client) -> None:
    item = await create(client, name="×" * 200, description="🔩" * 4000)
    assert (len(item["name"]), len(item["description"])) == (200, 4000)


@pytest.mark.parametrize(
    ("query", "skus"),
    [
        ({}, ["under_score", "back\\slash", "100%", "NUT"]),
        ({"sku": "NUT"}, ["NUT"]),
        ({"sku": "nut"}, []),
        ({"sku": "NU"}, []),
        ({"q": "nUt"}, ["NUT"]),
        ({"q": "U"}, ["under_score", "NUT"]),
        ({"q": "%"}, ["100%"]),
        ({"q": "_"}, ["under_score"]),
        ({"q": "\\"}, ["back\\slash"]),
        ({"q": "0%"}, ["100%"]),
        ({"q": "%0"}, []),
        ({"q": "r_s"}, ["under_score"]),
        ({"q": "N_T"}, []),
        ({"q": ""}, ["under_score", "back\\slash", "100%", "NUT"]),
        ({"in_stock": "true"}, ["under_score", "100%"]),
        ({"in_stock": "false"}, ["back\\slash", "NUT"]),
        ({"in_stock": "true", "q": "0"}, ["100%"]),
        ({"low_stock": "true"}, ["under_score", "100%", "NUT"]),
        ({"low_stock": "false"}, ["back\\slash"]),
        ({"low_stock": "true", "in_stock": "true"}, ["under_score", "100%"]),
        ({"sku": "NUT", "in_stock": "true"}, []),
    ],
)
async def test_filters_of_a_list_are_matched_literally(
    client: Client, query: dict[str, str], skus: list[str]
) -> None:
    for number, name in enumerate(["NUT", "100%", "back\\slash", "under_score"]):
        sku = name if name == "NUT" else f"A-{number}"
        await create(client, sku=sku, name=name, quantity=number % 2, low_stock_at=None if number == 2 else 1)
    assert [item["name"] for item in await all_rows(client, "/items", **query)] == skus


async def test_items_are_found_by_several_skus_and_ids(client: Client) -> None:
    first, second, third = [await create(client, sku=sku) for sku in "ABC"]
    assert await all_rows(client, "/items", sku=["A", "C", "D"], limit=1) == [third, first]
    assert await all_rows(client, "/items", id=[first["id"], second["id"], NOWHERE]) == [second, first]
    assert await all_rows(client, "/items", id=[first["id"], second["id"]], sku=["B", "C"]) == [second]
    hundred = ["A", "B", *(f"NO-{number}" for number in range(98))]
    assert await all_rows(client, "/items", sku=hundred) == [second, first]


async def test_a_deleted_item_is_gone_and_its_sku_free(client: Client) -> None:
    item = await create(client)
    reply = await client.delete(f"/items/{item['id']}")
    assert (reply.status_code, reply.content) == (204, b"")
    assert_refused(await client.get(f"/items/{item['id']}"), 404, "NOT_FOUND")
    assert_refused(await client.get(f"/items/{item['id']}/movements"), 404, "NOT_FOUND")
    assert_refused(await client.delete(f"/items/{item['id']}"), 404, "NOT_FOUND")
    await create(client)


async def test_an_ordered_item_cannot_be_deleted(client: Client) -> None:
    item = await create(client)
    order = {"customer_id": "c-1", "lines": [{"item_id": item["id"], "quantity": 1}]}
    assert (await client.post("/orders", json=order)).status_code == 201
    assert_refused(await client.delete(f"/items/{item['id']}"), 409, "IN_USE")
    assert (await client.get(f"/items/{item['id']}")).json()["quantity"] == 4
