"""An order is fulfilled or cancelled once, even by concurrent requests; cancelling restocks and refunds."""

import asyncio
import hashlib
from typing import Any

import asyncpg
import httpx
import pytest

from conftest import Client
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import eventually, item, locked, order, running, stock, wait_for_locks
from tests.support.consistency import discrepancies
from tests.support.reply_assertions import assert_refused

ONCE = {"Idempotency-Key": "k-1"}
UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
async def bolt(client: Client) -> dict[str, Any]:
    return await item(client, 10)


@pytest.fixture
async def placed(client: Client, bolt: dict[str, Any]) -> dict[str, Any]:
    nut = await item(client, 5, price="0.10")
    content: dict[str, Any] = (await order(client, (bolt, 4), (nut, 2))).json()
    return content


def ended(placed: dict[str, Any], reply: httpx.Response, status: str, **fields: object) -> dict[str, Any]:
    """Return the placed order with the changes that this reply must show."""
    changed_at = reply.json()["updated_at"]
    assert changed_at > placed["created_at"]
    times = {"updated_at": changed_at, f"{status}_at": changed_at}
    return {**placed, **times, "status": status, "version": 2, **fields}


async def test_cancelling_restocks_and_records_the_refund(
    client: Client, bolt: dict[str, Any], placed: dict[str, Any], database_url: str, database: Database
) -> None:
    reply = await client.post(f"/orders/{placed['id']}/cancel")
    assert reply.status_code == 200
    assert reply.json() == ended(placed, reply, "cancelled")
    assert reply.headers["ETag"] == '"2"'
    assert (await client.get(f"/orders/{placed['id']}")).json() == reply.json()
    assert await stock(client, bolt) == 10
    (moved, *_) = (await client.get(f"/items/{bolt['id']}/movements")).json()["data"]
    assert (moved["cause"], moved["delta"], moved["order_id"]) == ("cancel", 4, placed["id"])
    booked = await database.fetch("select kind, amount::text from transactions order by kind")
    assert [tuple(row) for row in booked] == [("refund", placed["total"]), ("sale", placed["total"])]
    assert await discrepancies(database_url) == []


async def test_cancelling_again_changes_nothing(
    client: Client, bolt: dict[str, Any], placed: dict[str, Any], database_url: str
) -> None:
    first = await client.post(f"/orders/{placed['id']}/cancel")
    again = await client.post(f"/orders/{placed['id']}/cancel")
    assert (again.status_code, again.json()) == (200, first.json())
    assert await stock(client, bolt) == 10
    assert await discrepancies(database_url) == []


async def test_fulfilling_ends_an_order(client: Client, bolt: dict[str, Any], placed: dict[str, Any]) -> None:
    reply = await client.post(f"/orders/{placed['id']}/fulfil")
    assert (reply.status_code, reply.json()) == (200, ended(placed, reply, "fulfilled"))
    assert await stock(client, bolt) == 6
    refusal = assert_refused(await client.post(f"/orders/{placed['id']}/cancel"), 409, "INVALID_STATE")
    assert "fulfilled" in refusal["message"]
    assert refusal["details"] == [{"status": "fulfilled"}]
    assert_refused(await client.post(f"/orders/{placed['id']}/fulfil"), 409, "INVALID_STATE")


async def test_a_cancelled_order_cannot_be_fulfilled(client: Client, placed: dict[str, Any]) -> None:
    await client.post(f"/orders/{placed['id']}/cancel")
    refusal = assert_refused(await client.post(f"/orders/{placed['id']}/fulfil"), 409, "INVALID_STATE")
    assert refusal["details"] == [{"status": "cancelled"}]


async def test_fulfill_in_us_spelling_is_the_same(client: Client, placed: dict[str, Any]) -> None:
    first = await client.post(f"/orders/{placed['id']}/fulfill", headers=ONCE)
    assert (first.status_code, first.json()) == (200, ended(placed, first, "fulfilled"))
    again = await client.post(f"/orders/{placed['id']}/fulfill", headers=ONCE)
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    assert_refused(await client.post(f"/orders/{placed['id']}/fulfil"), 409, "INVALID_STATE")


async def test_the_first_reason_of_a_cancellation_is_stored(
    client: Client, placed: dict[str, Any], database: Database
) -> None:
    path = f"/orders/{placed['id']}/cancel"
    reply = await client.post(path, json={"reason": "ordered twice"})
    assert reply.json() == ended(placed, reply, "cancelled", cancel_reason="ordered twice")
    again = await client.post(path, json={"reason": "too late"})
    assert (again.status_code, again.json()) == (200, reply.json())
    event = await database.fetchval("select payload from events where type = 'order.cancelled'")
    assert event["cancel_reason"] == "ordered twice"


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"json": {}},
        {"json": {"reason": None}},
        {"content": b"", "headers": {"Content-Type": "application/json"}},
        {"content": b"", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    ],
    ids=["no body", "{}", "null", "an empty JSON body", "curl -d ''"],
)
async def test_cancelling_needs_no_body(
    client: Client, placed: dict[str, Any], request_: dict[str, Any]
) -> None:
    reply = await client.post(f"/orders/{placed['id']}/cancel", **request_)
    assert (reply.status_code, reply.json()["cancel_reason"]) == (200, None), reply.text


async def test_a_cancellation_without_a_body_can_be_repeated_after_an_update_from_version_0_2(
    client: Client, placed: dict[str, Any], database: Database
) -> None:
    path = f"/orders/{placed['id']}/cancel"
    first = await client.post(path, headers=ONCE)
    no_body = hashlib.blake2b(b"", digest_size=16).digest()  # of which 0.2 stored the fingerprint
    await database.fetch("update idempotency_keys set fingerprint = $1", no_body)
    assert (await client.post(path, headers=ONCE)).content == first.content


@pytest.mark.parametrize("reason", ["", "x" * 201, 7, "\x00"])
async def test_an_invalid_reason_cancels_nothing(
    client: Client, placed: dict[str, Any], reason: object
) -> None:
    reply = await client.post(f"/orders/{placed['id']}/cancel", json={"reason": reason})
    assert reply.json()["error"]["details"][0]["field"] == "/reason"
    assert_refused(reply, 422, "VALIDATION_FAILED")
    assert (await client.get(f"/orders/{placed['id']}")).json() == placed


async def test_another_body_with_the_same_key_is_rejected(client: Client, placed: dict[str, Any]) -> None:
    path = f"/orders/{placed['id']}/cancel"
    first = await client.post(path, headers=ONCE)
    assert (await client.post(path, headers=ONCE)).content == first.content
    other = await client.post(path, json={"reason": "ordered twice"}, headers=ONCE)
    assert_refused(other, 422, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize("step", ["cancel", "fulfil"])
async def test_only_the_expected_version_is_changed(
    client: Client, placed: dict[str, Any], step: str
) -> None:
    path = f"/orders/{placed['id']}/{step}"
    stale = await client.post(path, headers={"If-Match": '"7"'})
    assert_refused(stale, 412, "PRECONDITION_FAILED")
    assert stale.headers["ETag"] == '"1"'
    assert (await client.post(path, headers={"If-Match": '"1"'})).status_code == 200
    assert_refused(await client.post(path, headers={"If-Match": '"1"'}), 412, "PRECONDITION_FAILED")


@pytest.mark.parametrize("step", ["cancel", "fulfil"])
async def test_an_order_must_exist(client: Client, step: str) -> None:
    assert_refused(await client.post(f"/orders/{UNKNOWN}/{step}"), 404, "NOT_FOUND")


@pytest.mark.parametrize(("step", "status"), [("cancel", "cancelled"), ("fulfil", "fulfilled")])
async def test_the_event_has_the_order_as_in_the_reply(
    client: Client, placed: dict[str, Any], database: Database, step: str, status: str
) -> None:
    reply = await client.post(f"/orders/{placed['id']}/{step}", headers={"X-Request-ID": "r-1"})
    event = await database.fetchrow("select * from events where type = $1", f"order.{status}")
    assert event is not None
    changes, levels = event["payload"].pop("changes"), event["payload"].pop("stock", None)
    assert event["payload"] == reply.json()
    assert changes == {"status": {"from": "placed", "to": status}}
    assert (levels and [(level["quantity"], level["version"]) for level in levels]) == (
        [(10, 3), (5, 3)] if step == "cancel" else None
    )
    assert (event["subject"], event["request_id"]) == (placed["id"], "r-1")


async def test_a_rejection_records_no_event(
    client: Client, placed: dict[str, Any], database: Database
) -> None:
    await client.post(f"/orders/{placed['id']}/cancel")
    before = await database.fetchval("select count(*) from events")
    await client.post(f"/orders/{placed['id']}/cancel")
    await client.post(f"/orders/{placed['id']}/fulfil")
    assert await database.fetchval("select count(*) from events") == before


@pytest.mark.parametrize("step", ["cancel", "fulfil"])
async def test_a_repetition_with_the_same_key_gets_the_first_reply(
    client: Client, placed: dict[str, Any], step: str
) -> None:
    first = await client.post(f"/orders/{placed['id']}/{step}", headers=ONCE)
    again = await client.post(f"/orders/{placed['id']}/{step}", headers=ONCE)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert (again.headers["ETag"], again.headers["Idempotent-Replayed"]) == ('"2"', "true")
    assert (first.status_code, "Idempotent-Replayed" in first.headers) == (200, False)
    other = await client.post(f"/orders/{placed['id']}/fulfil", headers={"Idempotency-Key": "another"})
    assert_refused(other, 409, "INVALID_STATE")


@pytest.mark.parametrize("step", ["cancel", "fulfil"])
async def test_twenty_concurrent_repetitions_at_two_replicas_get_one_reply(
    settings: Settings, key: str, placed: dict[str, Any], step: str
) -> None:
    path = f"/orders/{placed['id']}/{step}"
    async with running(settings, key) as one, running(settings, key) as other:
        replies = await asyncio.gather(*(client.post(path, headers=ONCE) for client in [one, other] * 10))
    answered = [reply for reply in replies if reply.status_code == 200]
    for reply in replies:
        if reply.status_code != 200:
            assert_refused(reply, 409, "IDEMPOTENCY_IN_PROGRESS")
    assert len({reply.content for reply in answered}) == 1
    assert sum("Idempotent-Replayed" not in reply.headers for reply in answered) == 1


async def test_exactly_one_of_several_concurrent_cancels_and_fulfils_takes_effect(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    for _ in range(5):
        bolt = await item(concurrent_client, 10)
        placed = (await order(concurrent_client, (bolt, 4))).json()
        steps = ["cancel", "fulfil"] * 10
        replies = await asyncio.gather(
            *[concurrent_client.post(f"/orders/{placed['id']}/{step}") for step in steps]
        )
        end = (await concurrent_client.get(f"/orders/{placed['id']}")).json()
        assert end["version"] == 2
        for step, reply in zip(steps, replies, strict=True):
            if (step == "cancel" and end["status"] == "cancelled") or reply.status_code == 200:
                assert reply.json() == end
            else:
                assert_refused(reply, 409, "INVALID_STATE")
        assert await stock(concurrent_client, bolt) == (10 if end["status"] == "cancelled" else 6)
    assert await discrepancies(database_url) == []


async def test_concurrent_cancels_and_orders_of_the_same_items_lose_no_stock(
    settings: Settings, key: str, database_url: str
) -> None:
    async with running(settings, key) as one, running(settings, key) as other:
        bolt, nut = await item(one, 400), await item(one, 400)

        async def buy_and_return(client: httpx.AsyncClient, number: int) -> None:
            lines = [(bolt, 1), (nut, 2)] if number % 2 else [(nut, 1), (bolt, 2)]
            placed = await order(client, *lines)
            assert placed.status_code == 201, placed.text
            returned = await client.post(f"/orders/{placed.json()['id']}/cancel")
            assert returned.status_code == 200, returned.text

        await asyncio.gather(*[buy_and_return(client, n) for n in range(40) for client in (one, other)])
        assert (await stock(one, bolt), await stock(one, nut)) == (400, 400)
    assert await discrepancies(database_url) == []


async def test_an_order_stays_placed_if_its_restock_would_exceed_the_maximum(
    client: Client, bolt: dict[str, Any], placed: dict[str, Any], database_url: str
) -> None:
    await client.patch(f"/items/{bolt['id']}", json={"quantity": 2_147_483_647})
    assert_refused(await client.post(f"/orders/{placed['id']}/cancel"), 409, "INVALID_STATE")
    assert_refused(await client.post(f"/orders/{placed['id']}/cancel", headers=ONCE), 409, "INVALID_STATE")
    assert (await client.get(f"/orders/{placed['id']}")).json() == placed
    assert await discrepancies(database_url) == []


@pytest.mark.parametrize("statement", ["update transactions set amount = 0", "delete from transactions"])
async def test_the_ledger_is_never_changed(
    placed: dict[str, Any], database: Database, statement: str
) -> None:
    with pytest.raises(asyncpg.RestrictViolationError):
        await database.fetch(statement)


async def test_a_cancellation_creates_a_delivery(
    client: Client, placed: dict[str, Any], database: Database
) -> None:
    await database.fetch(
        """insert into webhooks (id, url, events, enabled, secret, version)
           values (gen_random_uuid(), 'https://example.org', '{order.cancelled}', true, 'whsec_', 1)"""
    )
    await client.post(f"/orders/{placed['id']}/cancel")

    async def delivery_exists() -> bool:
        return bool(await database.fetchval("select count(*) = 1 from deliveries"))

    await eventually(delivery_exists)


async def test_a_cancellation_succeeds_if_enough_stock_leaves_while_it_waits(
    concurrent_client: httpx.AsyncClient, database_url: str
) -> None:
    bolt = await item(concurrent_client, 1)
    placed = (await order(concurrent_client, (bolt, 1))).json()
    await concurrent_client.patch(f"/items/{bolt['id']}", json={"quantity": 2_147_483_647})
    async with locked(database_url, bolt) as connection:
        cancelling = asyncio.create_task(concurrent_client.post(f"/orders/{placed['id']}/cancel"))
        await wait_for_locks(connection, 1)
        await connection.execute("update items set quantity = 5")
    assert (await cancelling).status_code == 200
    assert await stock(concurrent_client, bolt) == 6
