"""`GET /audit` lists every change: who changed what, when, and in which request."""

from collections.abc import Awaitable, Callable

import pytest

from conftest import Client
from service.database.database import Database
from tests.support.app_helpers import item, order
from tests.support.reply_assertions import all_rows, assert_refused, pages, wrong_fields

MakeKey = Callable[..., Awaitable[str]]


async def test_an_entry_has_the_actor_the_change_the_time_and_the_request(client: Client, key: str) -> None:
    bolt = await item(client)
    await client.patch(f"/items/{bolt['id']}", json={"name": "M8"}, headers={"X-Request-ID": "r-1"})
    entry = (await client.get("/audit")).json()["data"][0]
    assert entry.keys() == {
        "id", "type", "entity", "entity_id", "actor", "request_id", "changes", "data", "created_at"
    }  # fmt: skip
    assert (entry["type"], entry["entity"], entry["entity_id"]) == ("item.updated", "item", bolt["id"])
    assert (entry["actor"], entry["request_id"]) == (key.split("_")[1], "r-1")
    assert entry["changes"] == {"name": {"from": "Bolt", "to": "M8"}}
    assert entry["data"] == {"id": bolt["id"], "version": 2}
    assert entry["created_at"].endswith("Z")


async def test_entries_are_filtered_by_entity_type_by_id_or_by_both(client: Client) -> None:
    bolt, nut = await item(client, 9), await item(client)
    placed = (await order(client, (bolt, 1))).json()
    await client.put("/resources/item", json={"status": "on"})

    async def found(entity: str) -> list[tuple[str, str]]:
        entries = await all_rows(client, "/audit", entity=entity)
        return [(entry["type"], entry["entity_id"]) for entry in entries]

    assert await found("item") == [("item.created", nut["id"]), ("item.created", bolt["id"])]
    assert await found(f"item/{bolt['id']}") == [("item.created", bolt["id"])]
    assert await found(placed["id"]) == [("order.placed", placed["id"])]
    assert await found("resource/item") == [("resource.created", "item")]
    assert await found(f"order/{bolt['id']}") == []


async def test_entries_are_filtered_by_actor(client: Client, make_key: MakeKey) -> None:
    other = await make_key("items:write")
    await item(client)
    body = {"sku": "A", "name": "A", "price": "1"}
    await client.post("/items", json=body, headers={"Authorization": f"Bearer {other}"})
    entries = await all_rows(client, "/audit", actor=other.split("_")[1])
    assert [entry["data"]["sku"] for entry in entries] == ["A"]
    assert {entry["type"] for entry in await all_rows(client, "/audit", actor="cli")} == {"key.created"}


async def test_entries_are_filtered_by_time(client: Client) -> None:
    before, after = await item(client), await item(client)
    times = {
        entry["entity_id"]: entry["created_at"] for entry in await all_rows(client, "/audit", entity="item")
    }
    since = {"entity": "item", "from": times[after["id"]]}
    assert [entry["entity_id"] for entry in await all_rows(client, "/audit", **since)] == [after["id"]]
    until = {"entity": "item", "to": times[after["id"]]}
    assert [entry["entity_id"] for entry in await all_rows(client, "/audit", **until)] == [before["id"]]
    assert await all_rows(client, "/audit", **{"from": "2999-01-01"}) == []
    assert await all_rows(client, "/audit", to="0001-01-01") == []
    for first in ("0001-01-01", "2000-01-01t00:00:00z"):
        assert len(await all_rows(client, "/audit", **{"from": first})) == 3
    assert len(await all_rows(client, "/audit", **{"from": "2000-01-01T00:00:00+02:00"})) == 3


async def test_pages_have_every_entry_once_newest_first(client: Client) -> None:
    for _ in range(7):
        await item(client)
    listed = [page async for page in pages(client, "/audit", limit=3, entity="item")]
    assert [len(page) for page in listed] == [3, 3, 1]
    ids = [entry["id"] for page in listed for entry in page]
    assert ids == sorted(set(ids), reverse=True)


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "9" * 30, "0001-01-01T00:00:00+14:00"])
async def test_an_invalid_time_is_rejected(client: Client, name: str, text: str) -> None:
    assert wrong_fields(await client.get("/audit", params={name: text}), "query") == {f"/{name}"}


async def test_only_an_admin_can_read_the_audit_trail(client: Client, make_key: MakeKey) -> None:
    key = await make_key("items:read", "users:read", "orders:write")
    reply = await client.get("/audit", headers={"Authorization": f"Bearer {key}"})
    assert "admin" in assert_refused(reply, 403, "FORBIDDEN")["message"]


async def test_a_filter_uses_an_index(client: Client, database: Database) -> None:
    await database.fetchval(
        """insert into events (type, subject, actor, payload)
           select 'item.updated', n::text, 'a' || n % 7, '{}' from generate_series(1, 20000) n"""
    )
    await database.fetchval("analyze events")
    for condition in ("split_part(type, '.', 1) = 'order'", "subject = '7'", "actor = 'nobody'"):
        plan = await database.fetch(
            f"explain select * from events where {condition} order by id desc limit 50"
        )
        assert any("Index" in row[0] for row in plan) and not any("Seq Scan" in row[0] for row in plan), plan
