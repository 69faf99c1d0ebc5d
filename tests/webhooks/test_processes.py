"""Deliveries and whole processes: killed ones, ended ones, several at once, and a database that goes away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from receiver import SECRET, deliveries, receiver, record_event, subscribe
from structlog.testing import capture_logs

from service.database.database import Database
from service.settings import Settings
from service.webhooks import dispatcher as module
from service.webhooks.dispatcher import RETRY_DELAY_SECONDS, WebhookDispatcher
from tests.support.app_helpers import connected, eventually, item
from tests.support.depot_process import depot_serve
from tests.support.embedded_server import Server

ALLOWED = {"DEPOT_WEBHOOK_ALLOW_PRIVATE": "1", "DEPOT_DRAIN_SECONDS": "0"}
RETURN_SECONDS = 2.0
LEASE_SECONDS = 20.0
"""How soon others take over what a killed process was delivering."""
TELL = "insert into events (type, subject, actor, payload) values ('item.updated', 'i-1', 'cli', '{}')"
WAITING = "webhook_poll_failed"


async def change(client: httpx.AsyncClient, bolt: dict[str, Any], name: str) -> None:
    (await client.patch(f"/items/{bolt['id']}", json={"name": name})).raise_for_status()


async def settled(database: Database) -> bool:
    return {row["status"] for row in await deliveries(database)} == {"delivered"}


async def test_the_deliveries_of_a_killed_process_arrive_from_the_next(
    database: Database, database_url: str, key: str, tmp_path: Path
) -> None:
    async with receiver() as local:
        local.may_answer.clear()
        await subscribe(database, local.url)
        with depot_serve(database_url, tmp_path / "home", **ALLOWED) as server:
            async with server.client(key) as client:
                bolt = await item(client, 1)
                await change(client, bolt, "M8")
                await local.until(1)
                await change(client, bolt, "M9")
                server.kill()
        local.may_answer.set()
        longest = await database.fetchval("select max(due_at) - clock_timestamp() from deliveries")
        assert 0 < longest.total_seconds() <= LEASE_SECONDS
        await database.fetch("update deliveries set due_at = now()")  # so long later
        with depot_serve(database_url, tmp_path / "home", **ALLOWED):
            await eventually(partial(settled, database))
    names = {request.id: request.event["data"]["changes"]["name"]["to"] for request in local.received}
    assert sorted(names.values()) == ["M8", "M9"]
    assert local.ids.count(next(id_ for id_, name in names.items() if name == "M8")) == 2
    assert all(request.verifies(SECRET) for request in local.received)


async def test_a_stopped_process_leaves_its_deliveries_to_the_next(
    database: Database, database_url: str, key: str, tmp_path: Path
) -> None:
    async with receiver() as local:
        local.may_answer.clear()
        await subscribe(database, local.url)
        with depot_serve(database_url, tmp_path / "home", **ALLOWED) as server:
            async with server.client(key) as client:
                await change(client, await item(client, 1), "M8")
                await local.until(1)
            assert server.stop() == 0
            assert not [line for line in server.log.read_text().splitlines() if '"error"' in line]
        local.may_answer.set()
        with depot_serve(database_url, tmp_path / "home", **ALLOWED):
            await eventually(partial(settled, database))
    assert len(local.received) == 2
    assert len(set(local.ids)) == 1


async def test_several_processes_deliver_every_event_once(
    database: Database, database_url: str, key: str, tmp_path: Path
) -> None:
    async with receiver() as local:
        await subscribe(database, local.url)
        with (
            depot_serve(database_url, tmp_path / "one", **ALLOWED) as one,
            depot_serve(database_url, tmp_path / "two", **ALLOWED) as two,
        ):
            async with one.client(key) as here, two.client(key) as there:
                bolt = await item(here, 1)
                for number in range(30):
                    await change(here, bolt, f"here {number}")
                    await change(there, bolt, f"there {number}")
                await eventually(partial(settled, database))
    events = await database.fetch("select id from events where type = 'item.updated'")
    assert len(events) == 60
    assert sorted(local.ids) == sorted(str(row["id"]) for row in events)


async def test_by_default_nothing_is_sent_to_this_machine(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with receiver() as local:
        await subscribe(database, local.url.replace("127.0.0.1", "localhost"))
        await record_event(database)
        with depot_serve(database_url, tmp_path / "home", DEPOT_DRAIN_SECONDS="0"):
            await eventually(partial(attempted, database))
    (row,) = await deliveries(database)
    assert row["attempts"][0]["error"] == "The address is not public"
    assert local.received == []


async def attempted(database: Database) -> bool:
    return all(row["attempts"] for row in await deliveries(database))


@asynccontextmanager
async def delivering(
    own_server: Server, home: Path, inbox_url: str, **limits: float
) -> AsyncIterator[tuple[Database, WebhookDispatcher]]:
    """A dispatcher on that server which polls for deliveries when it is woken, and the database it uses."""
    settings = Settings(
        database_url=own_server.url, home=home, webhook_allow_private=True, webhook_poll_seconds=60
    )
    settings = replace(settings, **limits)
    async with Database(settings).open() as database:
        await subscribe(database, inbox_url)
        dispatcher = WebhookDispatcher(database, settings)
        async with dispatcher.open():
            yield database, dispatcher


async def test_deliveries_continue_soon_after_the_database_is_back(
    own_server: Server, tmp_path: Path
) -> None:
    async with receiver() as local, delivering(own_server, tmp_path, local.url) as (database, dispatcher):
        await record_event(database)
        dispatcher.wake()
        await local.until(1)
        with capture_logs() as logs:
            with own_server.away():
                dispatcher.wake()
                await eventually(partial(logged, logs, WAITING))
                await asyncio.sleep(3 * RETRY_DELAY_SECONDS)  # several rounds find it away
            begun = monotonic()
            async with connected(own_server.url) as connection:
                await connection.execute(TELL)
            await local.until(2)
            assert monotonic() - begun < RETURN_SECONDS
        assert len([line for line in logs if line["event"] == WAITING]) == 1


async def test_a_delivery_answered_while_the_database_was_down_is_not_sent_again(
    own_server: Server, tmp_path: Path
) -> None:
    async with receiver() as local, delivering(own_server, tmp_path, local.url) as (database, dispatcher):
        local.may_answer.clear()
        await record_event(database)
        dispatcher.wake()
        await local.until(1)
        with capture_logs() as logs, own_server.away():
            local.may_answer.set()
            dispatcher.wake()
            await eventually(partial(logged, logs, WAITING))
        await eventually(partial(settled_on, own_server))
    assert len(local.received) == 1


async def test_a_delivery_whose_result_cannot_be_recorded_before_its_lease_expires_is_sent_again(
    own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_MARGIN_SECONDS", 0.5)
    async with (
        receiver() as local,
        delivering(own_server, tmp_path, local.url, webhook_timeout_seconds=1) as (database, dispatcher),
    ):
        local.may_answer.clear()
        await record_event(database)
        dispatcher.wake()
        await local.until(1)
        with capture_logs() as logs, own_server.away():
            local.may_answer.set()
            await eventually(partial(logged, logs, "webhook_attempt_not_recorded"))
        dispatcher.wake()
        await eventually(partial(settled_on, own_server))
    assert len(set(local.ids)) == 1
    assert len(local.ids) == 2


async def settled_on(own_server: Server) -> bool:
    async with connected(own_server.url) as connection:
        return bool(await connection.fetchval("select bool_and(status = 'delivered') from deliveries"))


async def logged(logs: list[Any], event: str) -> bool:
    return any(line["event"] == event for line in logs)
