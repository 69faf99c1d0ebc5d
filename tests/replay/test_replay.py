"""`POST /webhooks/{id}/replay`: what happened in a period is delivered again, under the same ids."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.database.database import Database
from service.replay import job
from service.settings import Settings
from tests.support.app_helpers import eventually, item, running
from tests.support.job_helpers import running_worker, until
from tests.support.recording_receiver import RecordingReceiver, recording_receiver
from tests.support.reply_assertions import assert_refused, wrong_fields

pytestmark = pytest.mark.settings(webhook_allow_private=True, webhook_poll_seconds=0.1)


@pytest.fixture
async def shop(settings: Settings, key: str, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with running(settings, key) as client, running_worker(settings, database):
        yield client


@pytest.fixture
async def receiver() -> AsyncIterator[RecordingReceiver]:
    async with recording_receiver() as receiver:
        yield receiver


async def register(shop: httpx.AsyncClient, receiver: RecordingReceiver, *events: str) -> str:
    body = {"url": receiver.url, "events": list(events)}
    webhook = (await shop.post("/webhooks", json=body)).raise_for_status().json()
    receiver.secret = webhook["secret"]
    return f"/webhooks/{webhook['id']}"


def period(**fields: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    begin, end = now - timedelta(hours=1), now + timedelta(minutes=1)
    return {"from": begin.isoformat(), "to": end.isoformat(), **fields}


async def replayed(shop: httpx.AsyncClient, path: str, **fields: Any) -> dict[str, Any]:
    """Replay, and return the job once it has succeeded."""
    reply = await shop.post(f"{path}/replay", json=period(**fields))
    assert reply.status_code == 202, reply.text
    queued = reply.json()
    assert (queued["status"], reply.headers["Location"]) == ("queued", f"/jobs/{queued['id']}")
    return await until(shop, queued["id"], "succeeded")


async def deliveries(shop: httpx.AsyncClient, path: str, count: int) -> list[dict[str, Any]]:
    """Return the deliveries once there are that many, all of them delivered."""
    listed: list[dict[str, Any]] = []

    async def there() -> bool:
        nonlocal listed
        listed = (await shop.get(f"{path}/deliveries", params={"limit": 200})).json()["data"]
        return len(listed) == count and all(entry["status"] == "delivered" for entry in listed)

    await eventually(there)
    return listed


def use_batches_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    statement = job.REPLAY.replace(f"limit {job.SCAN_SIZE}", "limit 5")
    statement = statement.replace(f"limit {job.BATCH_SIZE}", "limit 2")
    monkeypatch.setattr(job, "REPLAY", statement.replace(f"offset {job.BATCH_SIZE - 1}", "offset 1"))
    monkeypatch.setattr(job, "BATCH_SIZE", 2)


async def test_events_are_delivered_again_under_the_same_ids(
    shop: httpx.AsyncClient, receiver: RecordingReceiver
) -> None:
    path = await register(shop, receiver, "item.created")
    for _ in range(3):
        await item(shop)
    first = await deliveries(shop, path, 3)
    assert (await replayed(shop, path))["result"] == {"deliveries": 3}
    again = await deliveries(shop, path, 6)
    assert sorted(entry["event_id"] for entry in again) == sorted(2 * [entry["event_id"] for entry in first])


async def test_only_the_chosen_types_of_the_period_are_delivered(
    shop: httpx.AsyncClient, receiver: RecordingReceiver
) -> None:
    bolt = await item(shop)
    await shop.patch(f"/items/{bolt['id']}", json={"name": "M8"})
    path = await register(shop, receiver, "order.placed")
    assert (await replayed(shop, path))["result"] == {"deliveries": 0}
    assert (await replayed(shop, path, events=["item.updated"]))["result"] == {"deliveries": 1}
    (delivery,) = await deliveries(shop, path, 1)
    assert delivery["event_type"] == "item.updated"
    ended = (datetime.now(UTC) - timedelta(minutes=30)).isoformat()
    assert (await replayed(shop, path, to=ended, events=["*"]))["result"] == {"deliveries": 0}


async def test_more_than_a_batch_is_delivered_in_batches_and_each_event_once(
    shop: httpx.AsyncClient, receiver: RecordingReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_batches_of_two(monkeypatch)
    made = [await item(shop) for _ in range(9)]
    path = await register(shop, receiver, "item.created")
    assert (await replayed(shop, path))["result"] == {"deliveries": len(made)}
    found = await deliveries(shop, path, len(made))
    assert len({entry["event_id"] for entry in found}) == len(made)


async def test_a_live_event_waits_for_two_batches_of_a_replay_at_most(
    shop: httpx.AsyncClient, receiver: RecordingReceiver, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_batches_of_two(monkeypatch)
    path = await register(shop, receiver, "item.created")
    made = [(await item(shop))["id"] for _ in range(20)]
    await deliveries(shop, path, len(made))
    queued = (await shop.post(f"{path}/replay", json=period())).json()
    most, status = 0, ""
    while status != "succeeded":
        most = max(most, await database.fetchval("select count(*) from deliveries where due_at <= now()"))
        status = (await shop.get(f"/jobs/{queued['id']}")).json()["status"]
    assert most <= 4
    await deliveries(shop, path, 2 * len(made))


async def test_another_version_of_depot_computes_the_same_ids(database: Database) -> None:
    """An upgrade interrupts a replay, and the new version runs it again."""
    computed = await database.fetchval(
        f"select {job.DELIVERY_ID} from (select $1::uuid as id) event",
        UUID("01a224cf-4c3d-75bb-9814-6e0fa62cd311"),
        UUID("01a224ce-7299-731f-83ab-5d2569d10cf2"),
    )
    assert computed == UUID("01a224ce-7299-7d23-83ab-bb9bd0b59e8a")


async def test_a_second_run_of_the_job_repeats_nothing(
    shop: httpx.AsyncClient, receiver: RecordingReceiver, database: Database
) -> None:
    await item(shop)
    path = await register(shop, receiver, "item.created")
    replay = await replayed(shop, path)
    await deliveries(shop, path, 1)
    rewind = "update jobs set status = 'failed' where id = $1"
    await database.fetch(rewind, replay["id"])
    assert (await shop.post(f"/jobs/{replay['id']}/retry")).status_code == 202
    await until(shop, replay["id"], "succeeded")
    assert len(await deliveries(shop, path, 1)) == 1


async def test_a_repetition_under_its_key_replays_nothing(
    shop: httpx.AsyncClient, receiver: RecordingReceiver
) -> None:
    await item(shop)
    path = await register(shop, receiver, "item.created")
    body, once = period(), {"Idempotency-Key": "once"}
    first, second = [await shop.post(f"{path}/replay", json=body, headers=once) for _ in range(2)]
    assert (second.content, second.headers["Location"]) == (first.content, first.headers["Location"])
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len((await shop.get("/jobs")).json()["data"]) == 1


async def test_an_impossible_period_is_rejected(shop: httpx.AsyncClient, receiver: RecordingReceiver) -> None:
    path = await register(shop, receiver, "item.created")
    long_ago = (datetime.now(UTC) - timedelta(days=31)).isoformat()
    assert wrong_fields(await shop.post(f"{path}/replay", json=period(**{"from": long_ago}))) == {"/from"}
    assert wrong_fields(await shop.post(f"{path}/replay", json=period(to=long_ago))) == {"/to"}
    assert wrong_fields(await shop.post(f"{path}/replay", json={"events": ["order.eaten"]})) == {
        "/from", "/to", "/events/0"
    }  # fmt: skip


async def test_a_disabled_or_unknown_webhook_gets_nothing(
    shop: httpx.AsyncClient, receiver: RecordingReceiver
) -> None:
    path = await register(shop, receiver, "item.created")
    await shop.patch(path, json={"enabled": False})
    assert_refused(await shop.post(f"{path}/replay", json=period()), 409, "INVALID_STATE")
    unknown = "/webhooks/00000000-0000-7000-8000-000000000000/replay"
    assert_refused(await shop.post(unknown, json=period()), 404, "NOT_FOUND")


async def test_clients_cannot_start_the_job_themselves(shop: httpx.AsyncClient) -> None:
    """A key that may start jobs may not send to webhooks."""
    body = {"kind": "webhook.replay", "payload": {}}
    details = assert_refused(await shop.post("/process", json=body), 422, "UNKNOWN_JOB")["details"]
    assert {"kind": "webhook.replay"} not in details
