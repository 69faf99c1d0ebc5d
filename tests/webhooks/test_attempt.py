"""An attempt that fails is recorded, described, repeated by the schedule and, after a 410, the last."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import pytest
from dispatching import all_are, delivering, tried, until
from receiver import receiver, record_event, subscribe

from service.database.database import Database
from service.events.journal import CLI
from service.jobs.maintenance import sweep_deliveries
from service.settings import Settings
from service.webhooks import maintenance
from service.webhooks.maintenance import fail_deliveries_of_disabled
from service.webhooks.service import WebhookService
from tests.support.app_helpers import eventually

pytestmark = pytest.mark.settings(webhook_allow_private=True, webhook_poll_seconds=0.05)


async def test_a_failure_is_recorded_and_retried_later(database: Database, settings: Settings) -> None:
    async with receiver(status=500) as local, delivering(database, settings, 100.0):
        await subscribe(database, local.url)
        event_id = await record_event(database)
        (row,) = await until(database, tried(1))
        pause = (row["due_at"] - datetime.now(UTC)).total_seconds()
        assert row["status"] == "pending"
        assert 70 < pause <= 120
        assert row["attempts"][0]["status_code"] == 500
        local.status = 200
        await database.fetch("update deliveries set due_at = now()")
        (row,) = await until(database, all_are("delivered"))
    assert [attempt["status_code"] for attempt in row["attempts"]] == [500, 200]
    assert local.ids == [event_id] * 2
    assert local.received[0].body == local.received[1].body


async def test_after_the_last_attempt_the_delivery_has_failed(database: Database, settings: Settings) -> None:
    async with receiver(status=503) as local, delivering(database, settings, 0.01, 0.01):
        await subscribe(database, local.url)
        await record_event(database)
        (row,) = await until(database, all_are("failed"))
    assert [attempt["status_code"] for attempt in row["attempts"]] == [503] * 3
    assert (row["due_at"], len(local.received)) == (None, 3)
    assert row["finished_at"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_may_request_a_later_retry(
    database: Database, settings: Settings, status: int
) -> None:
    async with (
        receiver(status=status, headers={"Retry-After": "3600"}) as local,
        delivering(database, settings, 1.0),
    ):
        await subscribe(database, local.url)
        await record_event(database)
        (row,) = await until(database, tried(1))
    assert 3500 < (row["due_at"] - datetime.now(UTC)).total_seconds() <= 3600


async def test_a_receiver_that_replies_410_gets_nothing_more(database: Database, settings: Settings) -> None:
    async with receiver(status=410) as local, receiver() as other:
        webhook_id = await subscribe(database, local.url)
        await subscribe(database, other.url)
        for _ in range(5):
            await record_event(database)
        async with delivering(database, settings, webhook_lane_max=1):
            await eventually(lambda: is_disabled(database, webhook_id))
            assert await fail_deliveries_of_disabled(database, settings) == 4
            rows = await until(database, lambda rows: all(row["status"] != "pending" for row in rows))
            await record_event(database)
            await other.until(6)
    assert {r["status"] for r in rows if r["webhook_id"] == webhook_id} == {"failed"}
    assert {r["status"] for r in rows if r["webhook_id"] != webhook_id} == {"delivered"}
    assert len(local.received) == 1
    webhook = await database.fetchrow("select * from webhooks where id = $1", webhook_id)
    assert webhook
    assert (webhook["enabled"], webhook["version"]) == (False, 2)
    assert "410" in webhook["disabled_reason"]
    (events,) = await database.fetch("select * from events where type = 'webhook.disabled'")
    assert (events["subject"], events["actor"]) == (str(webhook_id), "worker")


async def is_disabled(database: Database, webhook_id: UUID) -> bool:
    return not await database.fetchval("select enabled from webhooks where id = $1", webhook_id)


async def test_a_large_backlog_delays_neither_disabling_nor_deleting(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one statement on few rows; maintenance ends the backlog in batches."""
    monkeypatch.setattr(maintenance, "BATCH_SIZE", 2)
    async with receiver(status=410) as local:
        gone, deleted = await subscribe(database, local.url), await subscribe(database, "http://a.example/")
        for _ in range(7):
            await record_event(database)
        await database.fetch("update deliveries set due_at = 'infinity' where webhook_id = $1", deleted)
        async with database.session() as holder, holder.transaction():
            # Whatever waits for one of these rows ends with the statement timeout.
            await holder.fetch("select 1 from deliveries where due_at > now() for update")
            await holder.fetch(
                "select 1 from deliveries where webhook_id = $1 order by id desc limit 3 for update", gone
            )
            async with delivering(database, settings, webhook_lane_max=1):
                await eventually(lambda: is_disabled(database, gone))
            async with database.orm_session() as session:
                await WebhookService(session).remove(deleted, CLI, versions=None)
        assert await fail_deliveries_of_disabled(database, settings) == 6
    pending = await database.fetch("select webhook_id from deliveries where due_at is not null")
    assert {row["webhook_id"] for row in pending} == {deleted}
    assert await sweep_deliveries(database, settings) == 7


async def test_several_410_replies_disable_a_webhook_once(database: Database, settings: Settings) -> None:
    async with receiver(status=410) as local:
        local.may_answer.clear()
        await subscribe(database, local.url)
        for _ in range(8):
            await record_event(database)
        async with delivering(database, settings):
            await local.until(8)
            local.may_answer.set()
            await until(database, all_are("failed"))
    assert await database.fetchval("select count(*) from events where type = 'webhook.disabled'") == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/", "The connection failed"),
        ("http://nowhere.invalid/", "The host name could not be resolved"),
        ("http://127.1/", "The URL is not valid"),
        ("https://127.0.0.1:{port}/", "The TLS connection failed"),
    ],
)
async def test_a_failure_is_described_in_the_client_s_words(
    database: Database, settings: Settings, url: str, words: str
) -> None:
    async with receiver() as local, delivering(database, settings):
        port = local.url.rsplit(":", 1)[1].partition("/")[0]
        await subscribe(database, url.format(port=port))
        await record_event(database)
        (row,) = await until(database, tried(1))
    (attempt,) = row["attempts"]
    assert (attempt["status_code"], attempt["error"]) == (None, words)


async def test_a_reply_that_does_not_arrive_in_time_is_a_failure(
    database: Database, settings: Settings
) -> None:
    async with receiver() as local, delivering(database, settings, webhook_timeout_seconds=0.2):
        local.may_answer.clear()
        await subscribe(database, local.url)
        await record_event(database)
        (row,) = await until(database, tried(1))
    (attempt,) = row["attempts"]
    assert (attempt["status_code"], attempt["error"]) == (None, "There was no reply within 0.2 s")
    assert 150 < attempt["ms"] < 5000


async def test_a_reply_that_is_not_http_is_a_failure(database: Database, settings: Settings) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello there\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server, delivering(database, settings):
        await subscribe(database, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await record_event(database)
        (row,) = await until(database, tried(1))
    assert row["attempts"][0]["error"] == "The reply was not valid HTTP"


async def test_a_reply_without_end_is_delivered_by_its_status(database: Database, settings: Settings) -> None:
    async with receiver(status=200, body=b"x" * 5_000_000) as local, delivering(database, settings):
        await subscribe(database, local.url)
        await record_event(database)
        await until(database, all_are("delivered"))
        await record_event(database)
        await local.until(2)
