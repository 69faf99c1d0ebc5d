"""The journal: every change one event, with its author; no event without its change; nothing taken back."""

import asyncio
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Client
from service.database.database import Database
from service.events.journal import diff
from tests.support.app_helpers import item, order
from tests.support.reply_assertions import assert_refused

NAMED = {"X-Request-ID": "r-7"}


async def events(database: Database, *types: str) -> list[tuple[str, Any]]:
    """Type and payload, oldest first."""
    rows = await database.fetch(
        "select type, payload from events where type = any($1) order by id", list(types)
    )
    return [(row["type"], row["payload"]) for row in rows]


async def test_the_journal_records_an_item_from_its_creation_to_its_deletion(
    client: Client, database: Database
) -> None:
    made = await item(client, 9, description="M8")
    path = f"/items/{made['id']}"
    await client.patch(path, json={"price": "8.5", "description": None, "name": "Bolt"})
    await client.post(f"{path}/stock", json={"delta": -1})
    await client.delete(path)
    rows = await database.fetch(
        "select type, payload, subject from events where type like 'item.%' order by id"
    )
    assert [row["type"] for row in rows] == ["item.created", "item.updated", "item.updated", "item.deleted"]
    assert {row["subject"] for row in rows} == {made["id"]}
    created, patched, adjusted, deleted = (row["payload"] for row in rows)
    assert created == made
    assert patched == {
        "id": made["id"],
        "version": 2,
        "changes": {"price": {"from": "9.99", "to": "8.50"}, "description": {"from": "M8", "to": None}},
    }
    assert adjusted["changes"] == {"quantity": {"from": 9, "to": 8}}
    assert (deleted["id"], deleted["sku"], deleted["quantity"]) == (made["id"], made["sku"], 8)


async def test_an_event_names_the_key_and_the_request(client: Client, database: Database, key: str) -> None:
    made = (
        await client.post(
            "/items", json={"sku": "A", "name": "A", "price": "1", "quantity": 9}, headers=NAMED
        )
    ).json()
    await client.patch(f"/items/{made['id']}", json={"name": "B"}, headers=NAMED)
    await client.post(f"/items/{made['id']}/stock", json={"delta": 1}, headers=NAMED)
    body = {"customer_id": "c-1", "lines": [{"sku": "A", "quantity": 8}]}
    await client.post("/orders", json=body, headers=NAMED)
    await client.put("/resources/r", json={"status": "on"}, headers=NAMED)
    await client.patch("/resources/r", json={"status": "off"}, headers=NAMED)
    await client.delete("/resources/r", headers=NAMED)
    await client.delete(f"/items/{(await item(client))['id']}", headers=NAMED)
    rows = await database.fetch("select type, actor from events where request_id = 'r-7' order by id")
    assert [row["type"] for row in rows] == [
        "item.created", "item.updated", "item.updated", "order.placed", "item.low_stock",
        "resource.created", "resource.updated", "resource.deleted", "item.deleted",
    ]  # fmt: skip
    assert {row["actor"] for row in rows} == {key.split("_")[1]}


async def test_orders_of_one_commit_keep_their_own_authors(
    concurrent_client: Any, database: Database
) -> None:
    bolt = await item(concurrent_client, 100)
    body = {"customer_id": "c-1", "lines": [{"item_id": bolt["id"], "quantity": 1}]}
    replies = await asyncio.gather(
        *[
            concurrent_client.post("/orders", json=body, headers={"X-Request-ID": f"r-{number}"})
            for number in range(30)
        ]
    )
    acknowledged = {reply.json()["id"]: reply.headers["X-Request-ID"] for reply in replies}
    rows = await database.fetch("select subject, request_id from events where type = 'order.placed'")
    assert {row["subject"]: row["request_id"] for row in rows} == acknowledged


async def test_the_journal_records_the_changes_of_a_resource(client: Client, database: Database) -> None:
    await client.put("/resources/r", json={"status": "on", "metadata": {"n": 1}})
    await client.put("/resources/r", json={"status": "off", "metadata": {"n": 1}})
    await client.patch("/resources/r", json={"metadata": None})
    (_, created), (_, replaced), (_, patched) = await events(database, "resource.created", "resource.updated")
    assert created == {"id": "r", "status": "on", "metadata": {"n": 1}}
    assert replaced["changes"] == {"status": {"from": "on", "to": "off"}}
    assert patched["changes"] == {"metadata": {"from": {"n": 1}, "to": None}}


async def test_a_rejected_change_is_not_an_event(client: Client, database: Database) -> None:
    bolt = await item(client, 1)
    before = await database.fetchval("select count(*) from events")
    path = f"/items/{bolt['id']}"
    assert_refused(
        await client.post("/items", json={"sku": bolt["sku"], "name": "A", "price": "1"}),
        409,
        "DUPLICATE_SKU",
    )
    assert_refused(await client.post(f"{path}/stock", json={"delta": -2}), 409, "INSUFFICIENT_STOCK")
    assert_refused(await order(client, (bolt, 2)), 409, "INSUFFICIENT_STOCK")
    stale = {"If-Match": '"9"'}
    assert_refused(await client.patch(path, json={"name": "B"}, headers=stale), 412, "PRECONDITION_FAILED")
    assert_refused(await client.delete(path, headers=stale), 412, "PRECONDITION_FAILED")
    assert_refused(await client.delete("/resources/none"), 404, "NOT_FOUND")
    assert await database.fetchval("select count(*) from events") == before


@pytest.mark.parametrize(
    ("quantity", "steps", "reported"),
    [
        (10, [-4], []),  # 6 are left
        (10, [-5], [5]),
        (10, [-9], [1]),
        (10, [-5, -1], [5]),  # it was low already
        (10, [-5, -5], [5, 0]),
        (3, [-1, -2], [0]),
        (6, [-1, 1, -1], [5, 5]),
        (0, [7], []),
    ],
)
async def test_low_stock_is_an_event_when_it_gets_low_and_when_it_runs_out(
    client: Client, database: Database, quantity: int, steps: list[int], reported: list[int]
) -> None:
    bolt = await item(client, quantity)
    for number, delta in enumerate(steps):
        if delta < 0 and number % 2:
            await order(client, (bolt, -delta))
        elif number:
            await client.patch(
                f"/items/{bolt['id']}", json={"quantity": sum([quantity, *steps[: number + 1]])}
            )
        else:
            await client.post(f"/items/{bolt['id']}/stock", json={"delta": delta})
    low = await events(database, "item.low_stock")
    assert [payload["quantity"] for _, payload in low] == reported
    assert all(payload["sku"] == bolt["sku"] and payload["id"] == bolt["id"] for _, payload in low)


@pytest.mark.parametrize(
    ("threshold", "reported"), [(None, []), (0, [0]), (2, [2, 0]), (7, [7, 0]), (2_147_483_647, [0])]
)
async def test_low_stock_is_an_event_at_the_threshold_of_the_item(
    client: Client, database: Database, threshold: int | None, reported: list[int]
) -> None:
    bolt = await item(client, 9, low_stock_at=8)
    path = f"/items/{bolt['id']}"
    assert (await client.patch(path, json={"low_stock_at": threshold})).json()["low_stock_at"] == threshold
    await client.post(f"{path}/stock", json={"delta": -2})
    await order(client, (bolt, 5))
    await client.patch(path, json={"quantity": 0})
    low = await events(database, "item.low_stock")
    assert [payload["quantity"] for _, payload in low] == reported


async def test_back_in_stock_is_an_event_when_the_quantity_rises_from_zero(
    client: Client, database: Database
) -> None:
    bolt = await item(client, 3)
    path = f"/items/{bolt['id']}"
    await client.post(f"{path}/stock", json={"delta": 1})  # not from 0
    placed = await order(client, (bolt, 4))
    await client.post(f"/orders/{placed.json()['id']}/cancel")
    await client.patch(path, json={"quantity": 0})
    await client.patch(path, json={"quantity": 7})
    await client.post(f"{path}/stock", json={"delta": -7})
    await client.post(f"{path}/stock", json={"delta": 2})
    told = await events(database, "item.back_in_stock")
    assert [payload for _, payload in told] == [
        {"id": bolt["id"], "sku": bolt["sku"], "quantity": quantity} for quantity in (4, 7, 2)
    ]


@pytest.mark.parametrize("table", ["events", "seals"])
@pytest.mark.parametrize("statement", ["update {} set {}", "truncate {}"])
async def test_nothing_is_ever_changed(database: Database, table: str, statement: str) -> None:
    column = {"events": "type = 'item.updated'", "seals": "position = 1"}[table]
    with pytest.raises(asyncpg.RestrictViolationError):
        await database.fetch(statement.format(table, column))


VALUES = st.none() | st.integers(0, 3) | st.text(max_size=2)
FACTS = st.fixed_dictionaries({"a": VALUES, "b": VALUES, "c": VALUES})


@given(FACTS, FACTS)
def test_changes_lead_from_before_to_after(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = diff(before, after)
    assert {**before, **{name: change["to"] for name, change in found.items()}} == after
    assert {**after, **{name: change["from"] for name, change in found.items()}} == before
    assert all(change["from"] != change["to"] for change in found.values())
