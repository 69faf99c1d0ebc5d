"""Deliveries over HTTP: changes and tests are sent, signed with every valid secret, and listed."""

from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest
from msgspec.structs import replace
from receiver import Receiver, attempted, deliveries, finished, receiver, record_event, register, subscribe

from service.database.database import Database
from service.jobs.maintenance import sweep_deliveries
from service.settings import Settings
from service.webhooks.service import OLDER_SECRETS_MAX
from tests.support.app_helpers import eventually, item, running
from tests.support.reply_assertions import all_rows, assert_refused, wrong_fields

pytestmark = pytest.mark.settings(webhook_allow_private=True, webhook_poll_seconds=60.0)
ONCE = {"Idempotency-Key": "once"}


@pytest.fixture
async def shop(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with running(settings, key) as client:
        yield client


@pytest.fixture
async def local() -> AsyncIterator[Receiver]:
    async with receiver() as local:
        yield local


async def test_a_change_is_delivered_right_after_its_reply(shop: httpx.AsyncClient, local: Receiver) -> None:
    webhook = await register(shop, local)
    bolt = await item(shop, 3)
    for count in range(1, 4):
        reply = await shop.patch(f"/items/{bolt['id']}", json={"name": f"Bolt {count}"})
        assert reply.status_code == 200
        request = (await local.until(count))[-1]  # long before the clock strikes: it was woken
        assert request.verifies(webhook["secret"])
        assert request.event["type"] == "item.updated"
        assert request.event["data"]["version"] == reply.json()["version"]
        assert request.event["data"]["changes"]["name"]["to"] == f"Bolt {count}"
    events = await finished(shop, webhook)
    assert [delivery["event_id"] for delivery in events] == local.ids[::-1]


async def test_a_rejected_change_is_not_delivered(shop: httpx.AsyncClient, local: Receiver) -> None:
    await register(shop, local)
    bolt = await item(shop, 3)
    stale = {"If-Match": '"7"'}
    assert_refused(
        await shop.patch(f"/items/{bolt['id']}", json={"name": "M8"}, headers=stale),
        412,
        "PRECONDITION_FAILED",
    )
    assert_refused(
        await shop.post(f"/items/{bolt['id']}/stock", json={"delta": -9}), 409, "INSUFFICIENT_STOCK"
    )
    await shop.patch(f"/items/{bolt['id']}", json={"name": "M9"})
    (request,) = await local.until(1)
    assert request.event["data"]["changes"]["name"]["to"] == "M9"


async def test_a_test_event_goes_to_one_webhook_only(shop: httpx.AsyncClient, local: Receiver) -> None:
    async with receiver() as other:
        webhook, bystander = await register(shop, local), await register(shop, other)
        reply = await shop.post(f"/webhooks/{webhook['id']}/test")
        owed = reply.json()
        assert (reply.status_code, owed["status"], owed["event_type"]) == (202, "pending", "webhook.test")
        assert (owed["attempts"], owed["finished_at"]) == ([], None)
        assert owed["due_at"] == owed["created_at"]
        (request,) = await local.until(1)
        assert (request.id, request.event["type"]) == (owed["event_id"], "webhook.test")
        assert request.event["data"] == {"id": webhook["id"]}
        assert request.verifies(webhook["secret"])
        (events,) = await finished(shop, webhook)
        assert await finished(shop, bystander) == []
        assert other.received == []
    attempts = events.pop("attempts")
    assert events == {
        "id": owed["id"],
        "event_id": owed["event_id"],
        "event_type": "webhook.test",
        "status": "delivered",
        "due_at": None,
        "finished_at": events["finished_at"],
        "created_at": owed["created_at"],
    }
    (attempt,) = attempts
    assert attempt.keys() == {"at", "status_code", "ms", "error"}
    assert (attempt["status_code"], attempt["error"]) == (204, None)


async def test_after_a_rotation_either_secret_verifies(shop: httpx.AsyncClient, local: Receiver) -> None:
    webhook = await register(shop, local)
    path = f"/webhooks/{webhook['id']}"
    rotated = (await shop.post(f"{path}/secret")).json()
    await shop.post(f"{path}/test")
    (request,) = await local.until(1)
    assert request.verifies(webhook["secret"])
    assert request.verifies(rotated["secret"])


async def test_after_several_rotations_every_secret_verifies_for_its_time(
    shop: httpx.AsyncClient, local: Receiver, database: Database
) -> None:
    webhook = await register(shop, local)
    path = f"/webhooks/{webhook['id']}"
    secrets = [webhook["secret"], *[(await shop.post(f"{path}/secret")).json()["secret"] for _ in range(3)]]
    await shop.post(f"{path}/test")
    (request,) = await local.until(1)
    assert [request.verifies(secret) for secret in secrets] == [True] * 4
    await database.fetch(
        "update webhooks set older_secrets = jsonb_set(older_secrets, '{1,until}', to_jsonb(now()))"
    )
    await shop.post(f"{path}/test")
    (_, request) = await local.until(2)
    assert [request.verifies(secret) for secret in secrets] == [False, True, True, True]


async def test_a_webhook_has_a_limited_number_of_earlier_secrets(
    shop: httpx.AsyncClient, local: Receiver
) -> None:
    path = f"/webhooks/{(await register(shop, local))['id']}/secret"
    for _ in range(OLDER_SECRETS_MAX):
        assert (await shop.post(path)).status_code == 200
    assert_refused(await shop.post(path), 409, "LIMIT_REACHED")


async def test_a_repeated_test_under_one_key_sends_once(
    shop: httpx.AsyncClient, database: Database, local: Receiver
) -> None:
    path = f"/webhooks/{(await register(shop, local))['id']}"
    first = await shop.post(f"{path}/test", headers=ONCE)
    await shop.patch(path, json={"enabled": False})
    again = await shop.post(f"{path}/test", headers=ONCE)
    assert (again.status_code, again.content) == (202, first.content)
    assert len(await deliveries(database)) == 1
    other = await shop.post(f"{path}/test", headers={"Idempotency-Key": "another"})
    assert_refused(other, 409, "INVALID_STATE")


async def test_without_an_overlap_the_old_secret_expires_immediately(
    settings: Settings, key: str, local: Receiver
) -> None:
    async with running(replace(settings, webhook_secret_overlap_seconds=0), key) as shop:
        webhook = await register(shop, local)
        rotated = (await shop.post(f"/webhooks/{webhook['id']}/secret")).json()
        await shop.post(f"/webhooks/{webhook['id']}/test")
        (request,) = await local.until(1)
    assert request.verifies(rotated["secret"])
    assert not request.verifies(webhook["secret"])


async def test_deliveries_are_listed_newest_first_and_by_their_state(
    settings: Settings, key: str, database: Database, local: Receiver
) -> None:
    webhook_id = await subscribe(database, local.url)
    events = [await record_event(database) for _ in range(7)]
    ids = [str(row["id"]) for row in await deliveries(database)][::-1]
    await database.fetch("update webhooks set enabled = false")
    await database.fetch(
        "update deliveries set status = 'failed', due_at = null where id = any($1::uuid[])", ids[:2]
    )
    path = f"/webhooks/{webhook_id}/deliveries"
    async with running(settings, key) as shop:
        rows = await all_rows(shop, path, limit=3)
        assert [row["id"] for row in rows] == ids
        assert sorted(row["event_id"] for row in rows) == sorted(events)
        assert {row["event_type"] for row in rows} == {"item.updated"}
        assert [row["id"] for row in await all_rows(shop, path, limit=3, status="failed")] == ids[:2]
        assert [row["id"] for row in await all_rows(shop, path, status="pending")] == ids[2:]
        assert await all_rows(shop, path, status="delivered") == []
        assert wrong_fields(await shop.get(path, params={"status": "lost"}), "query") == {"/status"}
        assert_refused(await shop.get(path, params={"cursor": "x"}), 400, "INVALID_CURSOR")


async def test_the_pending_deliveries_of_a_deleted_webhook_are_not_sent(
    shop: httpx.AsyncClient, database: Database, local: Receiver
) -> None:
    webhook = await register(shop, local)
    local.status = 500
    await shop.post(f"/webhooks/{webhook['id']}/test")
    await eventually(partial(attempted, database, 1))
    await shop.delete(f"/webhooks/{webhook['id']}")
    await database.fetch("update deliveries set due_at = now()")
    other = await register(shop, local)
    await shop.post(f"/webhooks/{other['id']}/test")
    await local.until(2)
    assert [request.event["data"]["id"] for request in local.received] == [webhook["id"], other["id"]]
    assert await sweep_deliveries(database, Settings()) == 1
