"""A request repeated under one `Idempotency-Key` takes effect once and gets the first reply byte for byte."""

import asyncio
from typing import Any

import httpx
import pytest

from conftest import Client
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import locked, running, wait_for_locks
from tests.support.reply_assertions import assert_refused

BOLT = {"sku": "BOLT-M8", "name": "Bolt", "price": "9.5", "quantity": 5}
ORDER = {"customer_id": "c-1", "lines": [{"sku": "BOLT-M8", "quantity": 2}]}


def once(key: str = "k-1", **headers: str) -> dict[str, str]:
    return {"Idempotency-Key": key, **headers}


def assert_replayed(again: httpx.Response, first: httpx.Response) -> None:
    assert again.status_code == first.status_code == 201
    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    for name in ("Location", "ETag", "Content-Type"):
        assert again.headers[name] == first.headers[name]


@pytest.fixture
async def bolt(client: Client) -> dict[str, Any]:
    item: dict[str, Any] = (await client.post("/items", json=BOLT)).json()
    return item


async def test_a_repeated_creation_happens_once(client: Client) -> None:
    first = await client.post("/items", json=BOLT, headers=once())
    again = await client.post("/items", json=BOLT, headers=once())
    assert_replayed(again, first)
    assert (await client.get(first.headers["Location"])).json() == first.json()
    assert len((await client.get("/items")).json()["data"]) == 1


async def test_a_repeated_order_takes_stock_once(client: Client, bolt: dict[str, Any]) -> None:
    first = await client.post("/orders", json=ORDER, headers=once())
    again = await client.post("/orders", json=ORDER, headers=once())
    assert_replayed(again, first)
    assert (await client.get(f"/items/{bolt['id']}")).json()["quantity"] == 3
    assert len((await client.get("/orders")).json()["data"]) == 1


async def test_the_first_reply_is_replayed_although_the_item_has_changed(client: Client) -> None:
    first = await client.post("/items", json=BOLT, headers=once())
    await client.patch(first.headers["Location"], json={"name": "Other"})
    assert_replayed(await client.post("/items", json=BOLT, headers=once()), first)


@pytest.mark.parametrize("path", ["/items", "/orders"])
async def test_another_body_under_the_key_is_a_mismatch(client: Client, bolt: object, path: str) -> None:
    body = {**BOLT, "sku": "NUT"} if path == "/items" else ORDER
    other = {**body, "name": "Nut"} if path == "/items" else {**ORDER, "customer_id": "c-2"}
    assert (await client.post(path, json=body, headers=once())).status_code == 201
    assert_refused(await client.post(path, json=other, headers=once()), 422, "IDEMPOTENCY_MISMATCH")


async def test_a_rejection_is_not_stored(client: Client, bolt: dict[str, Any]) -> None:
    many = {"customer_id": "c-1", "lines": [{"sku": "BOLT-M8", "quantity": 6}]}
    assert_refused(await client.post("/orders", json=many, headers=once()), 409, "INSUFFICIENT_STOCK")
    await client.post(f"/items/{bolt['id']}/stock", json={"delta": 1})
    placed = await client.post("/orders", json=many, headers=once())
    assert placed.status_code == 201
    assert "Idempotent-Replayed" not in placed.headers


async def test_a_rejected_creation_is_not_stored(client: Client, bolt: dict[str, Any]) -> None:
    assert_refused(await client.post("/items", json=BOLT, headers=once()), 409, "DUPLICATE_SKU")
    await client.delete(f"/items/{bolt['id']}")
    assert (await client.post("/items", json=BOLT, headers=once())).status_code == 201


async def test_a_key_belongs_to_its_caller_and_path(client: Client, make_key: Any) -> None:
    await client.post("/items", json=BOLT, headers=once())
    other = await make_key("admin")
    reply = await client.post("/items", json=BOLT, headers=once(Authorization=f"Bearer {other}"))
    assert_refused(reply, 409, "DUPLICATE_SKU")
    assert (await client.post("/orders", json=ORDER, headers=once())).status_code == 201


async def test_a_key_expires_after_a_day(client: Client, database: Database) -> None:
    first = await client.post("/items", json=BOLT, headers=once())
    await database.fetch("update idempotency_keys set created_at = now() - interval '24 hours'")
    assert_refused(await client.post("/items", json=BOLT, headers=once()), 409, "DUPLICATE_SKU")
    nut = {**BOLT, "sku": "NUT"}
    second = await client.post("/items", json=nut, headers=once())
    assert second.json()["id"] != first.json()["id"]
    assert_replayed(await client.post("/items", json=nut, headers=once()), second)


@pytest.mark.parametrize("sent", ["", "x" * 256, "tab\there", "caf\u00e9".encode("latin-1")])
async def test_a_key_must_be_printable_ascii(client: Client, sent: str | bytes) -> None:
    value = sent if isinstance(sent, bytes) else sent.encode()
    reply = await client.post("/items", json=BOLT, headers={b"Idempotency-Key": value})  # type: ignore[dict-item]
    assert_refused(reply, 422, "VALIDATION_FAILED")
    assert reply.json()["error"]["details"][0]["field"] == "/Idempotency-Key"
    assert reply.json()["error"]["details"][0]["source"] == "header"


@pytest.mark.parametrize("sent", ["k", "x" * 255, "with space ~!"])
async def test_any_printable_key_is_valid(client: Client, sent: str) -> None:
    first = await client.post("/items", json=BOLT, headers=once(sent))
    assert_replayed(await client.post("/items", json=BOLT, headers=once(sent)), first)


@pytest.mark.parametrize(("path", "body"), [("/items", {**BOLT, "sku": "NUT"}), ("/orders", ORDER)])
async def test_twenty_concurrent_repeats_at_two_replicas_take_effect_once(
    settings: Settings, client: Client, key: str, bolt: object, path: str, body: dict[str, Any]
) -> None:
    async with running(settings, key) as one, running(settings, key) as other:
        replies = await asyncio.gather(*(c.post(path, json=body, headers=once()) for c in [one, other] * 10))
    created = {reply.content for reply in replies if reply.status_code == 201}
    assert len(created) == 1
    for reply in replies:
        if reply.status_code != 201:
            assert_refused(reply, 409, "IDEMPOTENCY_IN_PROGRESS")
            assert reply.headers["Retry-After"]
    assert len((await client.get("/orders")).json()["data"]) == (path == "/orders")


async def test_a_key_is_rolled_back_with_its_effect(client: Client, bolt: object, database: Database) -> None:
    await database.fetch("alter table orders add constraint no_c1 check (customer_id <> 'c-1')")
    assert (await client.post("/orders", json=ORDER, headers=once())).status_code == 500
    assert await database.fetchval("select count(*) from idempotency_keys") == 0
    await database.fetch("alter table orders drop constraint no_c1")
    assert (await client.post("/orders", json=ORDER, headers=once())).status_code == 201


@pytest.mark.parametrize("constraint", ["a_first", "z_last"])
async def test_another_unique_violation_is_not_a_replay(
    client: Client, bolt: dict[str, Any], database: Database, constraint: str
) -> None:
    await database.fetch(f"alter table movements add constraint {constraint} unique (reason)")
    path = f"/items/{bolt['id']}/stock"
    assert (await client.post(path, json=STOCK, headers=once("k-1"))).status_code == 200
    assert_refused(await client.post(path, json=STOCK, headers=once("k-2")), 500, "INTERNAL_ERROR")
    assert await database.fetchval("select count(*) from idempotency_keys where path = $1", path) == 1


async def test_a_retry_at_another_replica_that_waits_for_the_last_unit_is_a_replay(
    settings: Settings, key: str, bolt: dict[str, Any], database_url: str
) -> None:
    last = {"customer_id": "c-1", "lines": [{"sku": "BOLT-M8", "quantity": 5}]}
    async with running(settings, key) as one, running(settings, key) as other:
        async with locked(database_url, bolt) as holder:
            tries = [asyncio.create_task(c.post("/orders", json=last, headers=once())) for c in (one, other)]
            await wait_for_locks(holder, 2)
        first, again = await asyncio.gather(*tries)
    assert first.status_code == again.status_code == 201
    assert first.content == again.content


STOCK = {"delta": -2, "reason": "damaged"}


async def test_a_repeated_stock_change_takes_effect_once(client: Client, bolt: dict[str, Any]) -> None:
    path = f"/items/{bolt['id']}"
    first = await client.post(f"{path}/stock", json=STOCK, headers=once())
    again = await client.post(f"{path}/stock", json=STOCK, headers=once())
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.headers["ETag"] == again.headers["ETag"] == '"2"'
    assert first.headers["Content-Type"] == again.headers["Content-Type"] == "application/json"
    assert (await client.get(path)).json() == first.json()
    assert first.json()["quantity"] == 3
    assert_refused(
        await client.post(f"{path}/stock", json={"delta": 1}, headers=once()), 422, "IDEMPOTENCY_MISMATCH"
    )


async def test_a_rejected_stock_change_is_not_stored_and_a_key_expires_after_a_day(
    client: Client, bolt: dict[str, Any], database: Database
) -> None:
    path, many = f"/items/{bolt['id']}/stock", {"delta": -6}
    assert_refused(await client.post(path, json=many, headers=once()), 409, "INSUFFICIENT_STOCK")
    await client.post(path, json={"delta": 7})
    assert (await client.post(path, json=many, headers=once())).json()["quantity"] == 6
    await database.fetch("update idempotency_keys set created_at = now() - interval '24 hours'")
    later = await client.post(path, json=many, headers=once())
    assert later.json()["quantity"] == 0
    assert (await client.post(path, json=many, headers=once())).content == later.content


async def test_a_retry_at_another_replica_that_waits_for_the_last_units_of_stock_is_a_replay(
    settings: Settings, key: str, bolt: dict[str, Any], database_url: str
) -> None:
    path, last = f"/items/{bolt['id']}/stock", {"delta": -5}
    async with running(settings, key) as one, running(settings, key) as other:
        async with locked(database_url, bolt) as holder:
            tries = [asyncio.create_task(c.post(path, json=last, headers=once())) for c in (one, other)]
            await wait_for_locks(holder, 2)
        first, again = await asyncio.gather(*tries)
    assert first.status_code == again.status_code == 200, (first.text, again.text)
    assert first.content == again.content
