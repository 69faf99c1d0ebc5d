"""`GET /events`: the feed for consumers that poll. It misses nothing and repeats nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from conftest import Client
from service.audit import feed
from service.database.database import Database
from service.settings import Settings
from service.times import lowest_uuid7
from tests.support.app_helpers import connected, eventually, item, order, running, wait_for_locks
from tests.support.reply_assertions import assert_refused, wrong_fields
from tests.support.written_events import record

MakeKey = Callable[..., Awaitable[str]]


class Reader:
    """A consumer that stores its cursor."""

    def __init__(self, client: httpx.AsyncClient, **filters: Any) -> None:
        self.client = client
        self.filters = filters
        self.events: list[dict[str, Any]] = []

    async def poll(self) -> list[dict[str, Any]]:
        page = (await self.client.get("/events", params=self.filters)).raise_for_status().json()
        self.filters["cursor"] = page["next_cursor"]
        self.events += page["data"]
        data: list[dict[str, Any]] = page["data"]
        return data

    async def until(self, count: int) -> list[dict[str, Any]]:
        async def enough() -> bool:
            await self.poll()
            return len(self.events) >= count

        await eventually(enough)
        return self.events

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]


async def test_an_event_is_what_webhooks_get_under_its_webhook_id(client: Client, database: Database) -> None:
    bolt = await item(client, 3)
    placed = (await order(client, (bolt, 1))).json()
    (event,) = await Reader(client, type="order.placed").until(1)
    row = await database.fetchrow("select id, payload, created_at from events where type = 'order.placed'")
    assert row
    assert event.keys() == {"id", "type", "timestamp", "entity", "entity_id", "data"}
    assert event["id"] == str(row["id"])
    assert (event["type"], event["entity"], event["entity_id"]) == ("order.placed", "order", placed["id"])
    assert event["data"]["total"] == placed["total"]
    assert event["timestamp"].endswith("Z")


async def test_the_feed_is_read_oldest_first_and_its_cursor_is_never_null(client: Client) -> None:
    reader = Reader(client, entity="item", limit=2)
    assert await reader.poll() == []
    made = [await item(client) for _ in range(5)]
    events = await reader.until(5)
    assert [event["entity_id"] for event in events] == [bolt["id"] for bolt in made]
    assert await reader.poll() == []
    assert reader.filters["cursor"]
    made.append(await item(client))
    assert [event["entity_id"] for event in await reader.until(6)] == [bolt["id"] for bolt in made]


async def test_events_are_filtered_by_type_and_by_entity(client: Client) -> None:
    bolt, nut = await item(client, 9), await item(client)
    await client.patch(f"/items/{bolt['id']}", json={"name": "M8"})
    assert [event["entity_id"] for event in await Reader(client, type="item.created").until(2)] == [
        bolt["id"], nut["id"]
    ]  # fmt: skip
    for entity in (bolt["id"], f"item/{bolt['id']}"):
        found = await Reader(client, entity=entity).until(2)
        assert [event["type"] for event in found] == ["item.created", "item.updated"]


@pytest.mark.parametrize("type_", ["order", "nonsense.placed", "order.", "Order.placed", ""])
async def test_an_invalid_type_is_rejected(client: Client, type_: str) -> None:
    assert wrong_fields(await client.get("/events", params={"type": type_}), "query") == {"/type"}


async def test_a_cursor_of_other_filters_is_rejected(client: Client) -> None:
    cursor = (await client.get("/events")).json()["next_cursor"]
    reply = await client.get("/events", params={"cursor": cursor, "type": "order.placed"})
    assert_refused(reply, 400, "INVALID_CURSOR")


async def test_a_key_sees_the_types_whose_area_it_may_read(client: Client, make_key: MakeKey) -> None:
    bolt = await item(client, 3)
    await order(client, (bolt, 1))
    await client.post("/users/ann/actions", json={"action": "login"})
    await Reader(client).until(3)
    client.headers["Authorization"] = f"Bearer {await make_key('items:read', 'users:read')}"
    events = await Reader(client).until(2)
    assert {event["entity"] for event in events} == {"item", "user"}
    for wanted in ({"type": "order.placed"}, {"entity": "order"}, {"type": "key.created"}):
        refused = await client.get("/events", params=wanted)
        assert "lacks" in assert_refused(refused, 403, "FORBIDDEN")["message"]
    client.headers["Authorization"] = f"Bearer {await make_key('items:write')}"
    assert_refused(await client.get("/events"), 403, "FORBIDDEN")


async def test_a_rare_type_is_found_after_many_events_of_other_types(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "READ_SCAN_END", feed.READ_SCAN_END.replace(str(feed.SCAN_MAX - 1), "2"))
    for _ in range(9):
        bolt = await item(client, 1)
    await client.delete(f"/items/{bolt['id']}")
    reader = Reader(client, type="item.deleted")
    assert await reader.poll() == []
    assert [event["entity_id"] for event in await reader.until(1)] == [bolt["id"]]


async def test_an_event_that_commits_late_is_not_missed(client: Client, database_url: str) -> None:
    reader = Reader(client, type="user.action")
    async with connected(database_url) as late, connected(database_url) as early:
        async with late.transaction():
            first = await record(late, 1)
            second = await record(early, 2)
            for _ in range(5):
                assert await reader.poll() == []
        assert [event["id"] for event in await reader.until(2)] == [first, second]
    assert await reader.poll() == []


@pytest.mark.parametrize("filters", [{}, {"entity": "ann"}])
async def test_an_event_of_a_clock_that_was_set_back_is_not_missed(
    client: Client, database: Database, filters: dict[str, str]
) -> None:
    reader, earlier = Reader(client, **filters), lowest_uuid7(datetime.now(UTC))
    await reader.poll()
    values = "values ($1, 'user.action', 'ann', 'cli', '{}')"
    await database.fetch(f"insert into events (id, type, subject, actor, payload) {values}", earlier)
    assert [event["id"] for event in await reader.poll()] == [str(earlier)]


async def test_an_event_that_commits_late_is_not_missed_where_activity_is_not_tracked(
    client: Client, database_url: str
) -> None:
    reader = Reader(client, type="user.action")
    async with connected(database_url) as late, connected(database_url) as early:
        await late.execute("set track_activities = off")
        async with late.transaction():
            first = await record(late, 1)
            second = await record(early, 2)
            with capture_logs() as lines:
                assert await reader.poll() == []
            assert [line["event"] for line in lines] == ["event_feed_blocked"]
        await late.execute("set track_activities = on")
        assert [event["id"] for event in await reader.until(2)] == [first, second]


async def test_an_event_that_another_role_commits_late_is_not_missed(
    settings: Settings, database_url: str, key: str
) -> None:
    role = f"reader_{make_url(database_url).database}"
    limited = make_url(database_url).set(username=role).render_as_string()
    async with connected(database_url) as late:
        await late.execute(f"create role {role} login")
        await late.execute(f"grant pg_read_all_data, pg_write_all_data to {role}")
        async with running(replace(settings, database_url=limited), key) as client:
            reader = Reader(client, type="user.action")
            async with late.transaction():
                first = await record(late, 1)
                await client.post("/users/ann/actions", json={"action": "login"})
                assert await reader.poll() == []
            assert next(event["id"] for event in await reader.until(2)) == first
        await late.execute(f"drop role {role}")


async def test_a_transaction_that_only_reads_delays_no_event(client: Client, database_url: str) -> None:
    async with connected(database_url) as backup, backup.transaction(isolation="repeatable_read"):
        await backup.fetchval("select count(*) from events")
        await item(client)
        assert await Reader(client, type="item.created").until(1)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}])
async def test_an_action_that_waits_before_its_commit_is_not_missed(
    settings: Settings, key: str, database_url: str, headers: dict[str, str]
) -> None:
    """The id of the action is older than the lock that the request waits for."""
    async with running(settings, key) as client, connected(database_url) as blocker:
        reader = Reader(client, type="user.action")
        async with blocker.transaction():
            await blocker.execute("lock table idempotency_keys, webhooks in access exclusive mode")
            body = {"action": "login"}
            waiting = asyncio.create_task(client.post("/users/ann/actions", json=body, headers=headers))
            await wait_for_locks(blocker, 1)
            assert [await reader.poll() for _ in range(5)] == [[]] * 5
        recorded = (await waiting).raise_for_status().json()
        assert [event["id"] for event in await reader.until(1)] == [recorded["id"]]
