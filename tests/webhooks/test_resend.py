"""A delivery is sent again on request, once for a repeated request and only if none is pending."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest
from receiver import Receiver, attempted, deliveries, finished, receiver, record_event, register, subscribe

from service.database.database import Database
from service.errors import InvalidState
from service.events.journal import CLI
from service.settings import Settings
from service.webhooks.deliveries import resend
from tests.support.app_helpers import eventually, running
from tests.support.reply_assertions import assert_refused

pytestmark = pytest.mark.settings(webhook_allow_private=True, webhook_poll_seconds=60.0)
ONCE = {"Idempotency-Key": "once"}
NOWHERE = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
async def shop(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with running(settings, key) as client:
        yield client


@pytest.fixture
async def local() -> AsyncIterator[Receiver]:
    async with receiver() as local:
        yield local


async def test_a_repeated_resend_under_one_key_sends_once(
    shop: httpx.AsyncClient, database: Database, local: Receiver
) -> None:
    webhook = await register(shop, local)
    delivery = (await shop.post(f"/webhooks/{webhook['id']}/test")).json()
    await finished(shop, webhook)
    path = f"/webhooks/{webhook['id']}/deliveries/{delivery['id']}/resend"
    local.may_answer.clear()
    first = await shop.post(path, headers=ONCE)
    while_pending = await shop.post(path, headers=ONCE)
    local.may_answer.set()
    await finished(shop, webhook)
    when_finished = await shop.post(path, headers=ONCE)
    await shop.delete(f"/webhooks/{webhook['id']}")
    when_deleted = await shop.post(path, headers=ONCE)
    for reply in (while_pending, when_finished, when_deleted):
        assert (reply.status_code, reply.content) == (202, first.content)
        assert reply.headers["Idempotent-Replayed"] == "true"
    assert len(local.received) == 2


async def test_a_failed_delivery_is_visible_and_can_be_resent(
    shop: httpx.AsyncClient, database: Database, local: Receiver
) -> None:
    webhook = await register(shop, local)
    local.status = 500
    path = f"/webhooks/{webhook['id']}/deliveries"
    await shop.post(f"/webhooks/{webhook['id']}/test")
    for count in range(1, 13):
        await local.until(count)
        await eventually(partial(attempted, database, count))
        await database.fetch("update deliveries set due_at = now() where status = 'pending'")
        await shop.patch(f"/webhooks/{webhook['id']}", json={"enabled": True})  # any change wakes
    (dead,) = (await shop.get(path, params={"status": "failed"})).json()["data"]
    assert len(dead["attempts"]) == 12
    assert {attempt["status_code"] for attempt in dead["attempts"]} == {500}
    local.status = 200
    again = await shop.post(f"{path}/{dead['id']}/resend")
    assert (again.status_code, again.json()["status"], again.json()["finished_at"]) == (202, "pending", None)
    assert again.json()["due_at"]
    await local.until(13)
    (events,) = await finished(shop, webhook)
    assert (events["id"], events["status"], len(events["attempts"])) == (dead["id"], "delivered", 13)
    assert len(set(local.ids)) == 1


async def test_a_delivered_delivery_can_be_resent_but_not_a_pending_one(
    shop: httpx.AsyncClient, database: Database, local: Receiver
) -> None:
    webhook = await register(shop, local)
    owed = (await shop.post(f"/webhooks/{webhook['id']}/test")).json()
    path = f"/webhooks/{webhook['id']}/deliveries/{owed['id']}/resend"
    await finished(shop, webhook)
    local.may_answer.clear()
    assert (await shop.post(path)).status_code == 202
    assert_refused(await shop.post(path), 409, "INVALID_STATE")
    local.may_answer.set()
    await finished(shop, webhook)
    assert local.ids == [owed["event_id"]] * 2
    resent = await database.fetchrow("select * from events where type = 'delivery.resent'")
    assert resent
    assert resent["subject"] == owed["id"]


async def test_a_rejected_resend_does_not_delay_the_dispatcher(database: Database) -> None:
    webhook = await subscribe(database, "http://127.0.0.1:1/")
    await record_event(database)
    (owed,) = await deliveries(database)
    async with database.orm_session() as session:
        with pytest.raises(InvalidState):
            await resend(session, webhook, owed["id"], CLI)
        assert len(await database.fetch("select from deliveries for update nowait")) == 1


async def test_one_of_many_concurrent_resends_succeeds_and_delays_no_delivery(
    settings: Settings, key: str, shop: httpx.AsyncClient, local: Receiver
) -> None:
    webhook = await register(shop, local)
    owed = (await shop.post(f"/webhooks/{webhook['id']}/test")).json()
    await finished(shop, webhook)
    path = f"/webhooks/{webhook['id']}/deliveries/{owed['id']}/resend"
    async with running(settings, key) as replica:
        for round_ in range(2, 7):
            replies = await asyncio.gather(*(client.post(path) for client in [shop, replica] * 4))
            assert {reply.status_code for reply in replies} <= {202, 409}
            assert len(await local.until(round_)) >= round_
            await finished(shop, webhook)
    assert set(local.ids) == {owed["event_id"]}


async def test_a_disabled_webhook_gets_neither_tests_nor_resent_deliveries(
    shop: httpx.AsyncClient, local: Receiver
) -> None:
    webhook = await register(shop, local)
    path = f"/webhooks/{webhook['id']}"
    owed = (await shop.post(f"{path}/test")).json()
    await finished(shop, webhook)
    await shop.patch(path, json={"enabled": False})
    assert_refused(await shop.post(f"{path}/test"), 409, "INVALID_STATE")
    assert_refused(await shop.post(f"{path}/deliveries/{owed['id']}/resend"), 409, "INVALID_STATE")
    await shop.patch(path, json={"enabled": True})
    assert (await shop.post(f"{path}/test")).status_code == 202
    await local.until(2)


async def test_a_delivery_belongs_to_its_webhook(shop: httpx.AsyncClient, local: Receiver) -> None:
    webhook, other = await register(shop, local), await register(shop, local)
    owed = (await shop.post(f"/webhooks/{webhook['id']}/test")).json()
    await finished(shop, webhook)
    for path in (
        f"/webhooks/{other['id']}/deliveries/{owed['id']}",
        f"/webhooks/{webhook['id']}/deliveries/{NOWHERE}",
    ):
        assert_refused(await shop.post(f"{path}/resend"), 404, "NOT_FOUND")


async def test_only_the_chosen_delivery_is_resent(shop: httpx.AsyncClient, local: Receiver) -> None:
    webhook, other = await register(shop, local), await register(shop, local)
    for owner in (webhook, other, webhook):
        owed = (await shop.post(f"/webhooks/{owner['id']}/test")).json()
    assert len(await finished(shop, other)) == 1
    assert len(await finished(shop, webhook)) == 2
    await shop.post(f"/webhooks/{webhook['id']}/deliveries/{owed['id']}/resend")
    sent = {delivery["id"]: len(delivery["attempts"]) for delivery in await finished(shop, webhook)}
    assert sent.pop(owed["id"]) == 2
    assert list(sent.values()) == [1]
