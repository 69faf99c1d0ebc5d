"""The dispatcher, with a real database and real receivers."""

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
from dispatching import NEVER_SECONDS, all_are, delivering, until
from receiver import SECRET, deliveries, receiver, record_event, subscribe

from service.database.database import Database
from service.settings import Settings
from service.webhooks.signing import new_secret
from tests.support.app_helpers import eventually
from tests.support.written_events import write_event

pytestmark = pytest.mark.settings(webhook_allow_private=True, webhook_poll_seconds=0.05)


async def test_an_event_arrives_signed_and_whole(database: Database, settings: Settings) -> None:
    async with receiver() as local, delivering(database, settings):
        await subscribe(database, local.url)
        event_id = await record_event(database, name="caf\u00e9", price="1.10")
        (request,) = await local.until(1)
        (row,) = await until(database, all_are("delivered"))
    assert request.id == event_id
    assert request.verifies(SECRET)
    assert not request.verifies(new_secret())
    assert request.headers["Content-Type"] == "application/json"
    assert request.event == {
        "type": "item.updated",
        "timestamp": request.event["timestamp"],
        "data": {"name": "caf\u00e9", "price": "1.10"},
    }
    age = datetime.now(UTC) - datetime.fromisoformat(request.event["timestamp"])
    assert timedelta(0) < age < timedelta(minutes=1)
    assert (row["due_at"], row["tries"]) == (None, 1)
    assert row["finished_at"]
    (attempt,) = row["attempts"]
    assert (attempt["status_code"], attempt["error"]) == (204, None)
    assert 0 <= attempt["ms"] < 10_000


async def test_a_body_keeps_every_digit(database: Database, settings: Settings) -> None:
    async with receiver() as local, delivering(database, settings):
        await subscribe(database, local.url)
        await database.fetch(
            "insert into events (type, subject, actor, payload) values ('item.updated', 'i', 'cli', "
            """'{"weight": 1.10, "number": 12345678901234567890.5}'::jsonb)"""
        )
        (request,) = await local.until(1)
    assert b"1.10" in request.body
    assert b"12345678901234567890.5" in request.body


async def test_only_subscribed_events_arrive(database: Database, settings: Settings) -> None:
    async with receiver() as items, receiver() as orders, delivering(database, settings):
        await subscribe(database, items.url, "item.updated", "item.low_stock")
        await subscribe(database, orders.url, "order.placed")
        await record_event(database)
        await items.until(1)
        await until(database, all_are("delivered"))
    assert orders.received == []


async def test_the_event_of_a_change_that_is_rolled_back_is_never_sent(
    database: Database, settings: Settings
) -> None:
    async with receiver() as local, delivering(database, settings) as dispatcher:
        await subscribe(database, local.url)
        with pytest.raises(InterruptedError):
            async with database.session() as session, session.transaction():
                await write_event(session, "item.updated", "i-1")
                assert await session.fetchval("select count(*) from deliveries") == 1
                dispatcher.wake()
                raise InterruptedError
        kept = await record_event(database)
        await until(database, all_are("delivered"))
    assert local.ids == [kept]


async def test_a_wake_delivers_without_waiting_for_the_next_poll(
    database: Database, settings: Settings
) -> None:
    async with receiver() as local:
        await subscribe(database, local.url)
        async with delivering(database, settings, webhook_poll_seconds=NEVER_SECONDS) as dispatcher:
            for count in range(1, 4):
                event_id = await record_event(database)
                dispatcher.enable()
                dispatcher.wake()
                await local.until(count)
                assert local.ids[-1] == event_id


async def test_without_a_webhook_waking_does_nothing(database: Database, settings: Settings) -> None:
    async with delivering(database, settings, webhook_poll_seconds=NEVER_SECONDS) as dispatcher:
        await eventually(lambda: _true(not dispatcher._woken.is_set()))
        dispatcher.wake()
        assert not dispatcher._woken.is_set()
        dispatcher.enable()
        dispatcher.wake()
        assert dispatcher._woken.is_set()


async def test_one_wake_empties_a_queue_longer_than_the_concurrency_limit(
    database: Database, settings: Settings
) -> None:
    never = {"webhook_poll_seconds": NEVER_SECONDS, "webhook_lane_max": 2}
    async with receiver() as local:
        await subscribe(database, local.url)
        events = [await record_event(database) for _ in range(25)]
        async with delivering(database, settings, **never):
            await local.until(25)
            await until(database, all_are("delivered"))
    assert sorted(local.ids) == sorted(events)


async def test_a_receiver_that_hangs_does_not_slow_another(database: Database, settings: Settings) -> None:
    async with receiver() as stuck, receiver() as quick:
        stuck.may_answer.clear()
        stuck_id, quick_id = await subscribe(database, stuck.url), await subscribe(database, quick.url)
        async with delivering(database, settings, webhook_lane_max=3):
            for _ in range(20):
                await record_event(database)
            await quick.until(20)
            rows = await until(
                database, lambda rows: all_are("delivered")([r for r in rows if r["webhook_id"] == quick_id])
            )
            assert len(stuck.received) == 3
            assert all_are("pending")([row for row in rows if row["webhook_id"] == stuck_id])
            stuck.may_answer.set()
            await until(database, all_are("delivered"))


async def test_a_disabled_webhook_gets_nothing_until_it_is_enabled(
    database: Database, settings: Settings
) -> None:
    async with receiver() as local:
        await subscribe(database, local.url)
        before = await record_event(database)
        await database.fetch("update webhooks set enabled = false")
        await record_event(database)
        async with receiver() as other, delivering(database, settings):
            await subscribe(database, other.url)
            after = await record_event(database)
            await other.until(1)
            assert local.received == []
            await database.fetch("update webhooks set enabled = true")
            await local.until(1)
            await until(database, all_are("delivered"))
    assert local.ids == [before]
    assert other.ids == [after]


async def test_after_a_rotation_both_secrets_verify_for_a_while(
    database: Database, settings: Settings
) -> None:
    new = new_secret()
    async with receiver() as local, delivering(database, settings):
        await subscribe(database, local.url)
        await database.fetch(
            "update webhooks set secret = $1, old_secret = secret, old_secret_until = now() + interval '1 h'",
            new,
        )
        await record_event(database)
        await local.until(1)
        await database.fetch("update webhooks set old_secret_until = now()")
        await record_event(database)
        during, after = await local.until(2)
    assert [during.verifies(secret) for secret in (new, SECRET)] == [True, True]
    assert [after.verifies(secret) for secret in (new, SECRET)] == [True, False]


async def test_two_processes_deliver_each_event_once(database: Database, settings: Settings) -> None:
    async with (
        receiver() as local,
        Database(settings).open() as other,
        delivering(database, settings, webhook_poll_seconds=0.01) as one,
        delivering(other, settings, webhook_poll_seconds=0.01) as two,
    ):
        await subscribe(database, local.url)
        events = []
        for _ in range(150):
            events.append(await record_event(database))
            one.wake()
            two.wake()
        rows = await until(database, all_are("delivered"))
    assert sorted(local.ids) == sorted(events)
    assert {row["tries"] for row in rows} == {1}


async def test_a_dead_process_s_claim_is_delivered_when_its_lease_expires(
    database: Database, settings: Settings
) -> None:
    async with receiver() as local:
        await subscribe(database, local.url)
        event_id = await record_event(database)
        await database.fetch("update deliveries set tries = 1, due_at = now() + interval '0.3 s'")
        async with delivering(database, settings):
            (row,) = await until(database, all_are("delivered"))
    assert (local.ids, row["tries"], len(row["attempts"])) == ([event_id], 2, 1)


async def test_a_process_that_lost_a_claim_records_nothing(database: Database, settings: Settings) -> None:
    async with receiver() as local, delivering(database, settings, webhook_poll_seconds=NEVER_SECONDS) as c:
        local.may_answer.clear()
        await subscribe(database, local.url)
        await record_event(database)
        c.enable()
        c.wake()
        await local.until(1)
        claimed = "update deliveries set tries = tries + 1, due_at = now() + interval '1 hour'"
        await database.fetch(claimed)
        local.may_answer.set()
        await eventually(lambda: _true(not c._running))
        (row,) = await deliveries(database)
    assert (row["status"], row["attempts"], row["tries"]) == ("pending", [], 2)


async def test_running_deliveries_are_released_at_shutdown(database: Database, settings: Settings) -> None:
    async with receiver() as local:
        local.may_answer.clear()
        await subscribe(database, local.url)
        event_id = await record_event(database)
        async with delivering(database, settings):
            await local.until(1)
            begun = monotonic()
        assert monotonic() - begun < 5
        (row,) = await deliveries(database)
        assert (row["status"], row["attempts"]) == ("pending", [])
        assert row["due_at"] <= datetime.now(UTC)
        local.may_answer.set()
        async with delivering(database, settings):
            await until(database, all_are("delivered"))
        assert local.ids == [event_id] * 2


async def test_running_deliveries_may_finish_at_shutdown(database: Database, settings: Settings) -> None:
    async with receiver() as local:
        local.may_answer.clear()
        await subscribe(database, local.url)
        await record_event(database)
        async with delivering(database, settings):
            await local.until(1)
            await record_event(database)
            asyncio.get_running_loop().call_later(0.2, local.may_answer.set)
        first, *_ = await deliveries(database)
        assert (first["status"], len(first["attempts"])) == ("delivered", 1)


async def _true(value: bool) -> bool:
    return value
