"""What deliveries, clients and operators see of events that were pruned."""

from datetime import timedelta
from typing import Any

import pytest

from conftest import Client
from service.audit import chain
from service.audit.chain import seal
from service.audit.prune import PruneRejected, delete_pruned, prune
from service.cli.doctor.run import run_checks
from service.database.database import Database
from service.jobs.maintenance import sweep_deliveries
from service.settings import Settings
from tests.support.app_helpers import item, order
from tests.support.journal_history import (
    HOUR,
    NOON,
    NOW,
    PLAIN,
    export,
    prune_all,
    record_history,
    watermark,
)
from tests.support.reply_assertions import assert_refused, wrong_fields


@pytest.fixture
async def history(database: Database) -> Database:
    return await record_history(database)


@pytest.fixture
async def hooked(client: Client, history: Database) -> str:
    """Return the id of a webhook that has pending deliveries of two old events."""
    body = {"url": "https://example.com/", "events": ["user.action"]}
    webhook = (await client.post("/webhooks", json=body)).json()["id"]
    await history.fetch(
        """insert into deliveries (webhook_id, event_id, due_at) select $1, event_id, now() + interval '1 day'
           from seals where position in (2, 3)""",
        webhook,
    )
    return str(webhook)


async def test_an_event_with_a_pending_delivery_is_not_pruned(
    history: Database, hooked: str, client: Client
) -> None:
    with pytest.raises(PruneRejected, match=f"webhook {hooked} has pending deliveries"):
        await prune_all(history)
    await client.delete(f"/webhooks/{hooked}")
    await prune_all(history)
    assert await history.fetchval("select count(*) from events where created_at < $1", NOON) == 0


async def test_the_deliveries_of_pruned_events_are_deleted_too(
    history: Database, hooked: str, client: Client
) -> None:
    await history.fetch("update deliveries set status = 'delivered', due_at = null, finished_at = now()")
    await history.fetch(
        """insert into deliveries (webhook_id, event_id, due_at) select $1, event_id, now() + interval '1 day'
           from seals where position = 12""",
        hooked,
    )
    path = f"/webhooks/{hooked}/deliveries"
    assert len((await client.get(path)).json()["data"]) == 3
    await prune_all(history)
    (left,) = (await client.get(path)).json()["data"]
    assert await sweep_deliveries(history, PLAIN) == 2
    assert (await client.get(path)).json()["data"] == [left]


async def test_a_period_that_was_pruned_cannot_be_replayed(
    history: Database, hooked: str, client: Client
) -> None:
    await history.fetch("delete from deliveries")
    await prune_all(history)
    period = {"from": (NOON - 2 * HOUR).isoformat(), "to": NOW.isoformat()}
    refused = await client.post(f"/webhooks/{hooked}/replay", json=period)
    assert wrong_fields(refused, "body") == {"/from"}
    assert "older events were pruned" in refused.text
    period["from"] = NOON.isoformat()
    assert (await client.post(f"/webhooks/{hooked}/replay", json=period)).status_code == 202


LISTS = {
    "events": {"type": "user.action"},
    "audit": {"entity": "user"},
    "users/ann/actions": {},
}


@pytest.mark.parametrize(("path", "filters"), LISTS.items())
async def test_a_cursor_older_than_the_retained_events_has_expired(
    history: Database, client: Client, path: str, filters: dict[str, str]
) -> None:
    async def page(**parameters: Any) -> Any:
        return (await client.get(f"/{path}", params={**filters, **parameters})).raise_for_status().json()

    is_feed = path == "events"
    old = (await page(limit=5 if is_feed else 15))["next_cursor"]
    recent = (await page(limit=12 if is_feed else 5))["next_cursor"]
    await prune_all(history)
    refused = await client.get(f"/{path}", params={**filters, "cursor": old})
    assert "without a cursor" in assert_refused(refused, 410, "CURSOR_EXPIRED")["message"]
    assert len((await page())["data"]) == 10
    assert len((await page(cursor=recent))["data"]) == (8 if is_feed else 5)


async def test_a_reader_at_the_end_of_the_pruned_events_continues(history: Database, client: Client) -> None:
    page = (await client.get("/events", params={"limit": 10})).json()
    await prune_all(history)
    rest = await client.get("/events", params={"limit": 10, "cursor": page["next_cursor"]})
    assert len(rest.json()["data"]) == 10


async def test_the_doctor_reports_no_violation_after_a_prune(
    client: Client, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bolt, nut, gone = await item(client, 9), await item(client, 9), await item(client)
    orders = [(await order(client, (bolt, 1), (nut, 1))).json() for _ in range(4)]
    await client.post(f"/orders/{orders[0]['id']}/cancel")
    await client.post(f"/orders/{orders[1]['id']}/fulfil")
    await client.post(f"/items/{bolt['id']}/stock", json={"delta": 5})
    await client.delete(f"/items/{gone['id']}")
    monkeypatch.setattr(chain, "MAX_CLOCK_SKEW", timedelta(0))
    await seal(database, settings)
    await prune(database, settings, await watermark(database), await export(database))
    assert await delete_pruned(database, settings) > 0
    await client.post(f"/orders/{orders[2]['id']}/cancel")
    await client.delete(f"/items/{(await item(client))['id']}")
    await order(client, (nut, 1))
    await seal(database, settings)
    assert [found async for _, found in run_checks(database, settings) if found] == []
