"""Chaos test: no acknowledged change is lost, no unacknowledged one is reported, none happens twice."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
from msgspec import Struct

from service.audit.chain import seal
from service.audit.verify import verify
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import connected
from tests.support.consistency import discrepancies
from tests.support.fault_injection import (
    RestartableProcess,
    cluster,
    kill_when_done,
    post_until_acknowledged,
    wait_until_zero,
)
from tests.support.recording_receiver import RecordingReceiver, recording_receiver

CLIENTS = 8
KILLS_A_ROUND = 2
FAILURE_RATE = 0.03
"""The share of deliveries whose first attempt gets a 500, so that they are retried.

A third attempt would be minutes later, and one of forty runs would need one.
"""
EVENTS = ["order.placed", "user.action"]

EVENTS_OF_CHANGES = """
select id::text, type, subject from events where type = any($1)"""
STORED = {
    "order.placed": "select id::text, reference from orders",
    "user.action": "select id::text, payload->>'action' from events where type = 'user.action'",
}
UNDELIVERED = "select count(*) from deliveries where status <> 'delivered'"


class Verdict(Struct):
    """The result. `wrong` is empty if nothing was lost and nothing happened twice."""

    kills: int
    acknowledged: int
    delivered: int
    deliveries_repeated: int
    wrong: list[str]


async def prove_events(
    database_url: str, home: Path, key: str, *, rounds: int, a_round: int, seed: int
) -> Verdict:
    """Send orders and actions from several clients while service and worker are killed at random."""
    random = Random(seed)
    failing = Random(seed + 1)
    done: list[tuple[str, str, str]] = []
    async with recording_receiver(lambda: failing.random() < FAILURE_RATE) as receiver:
        with cluster(database_url, home, services=1, workers=1) as (urls, victims):
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=10) as client:
                receiver.secret = (
                    await post_until_acknowledged(client, urls, "/webhooks", webhook(receiver), "w")
                )["secret"]
                bolt = await post_until_acknowledged(client, urls, "/items", BOLT, "i")
                for number in range(rounds):
                    await run_round(client, urls, victims, random, done, bolt["id"], number, a_round)
                await wait_until_zero(database_url, UNDELIVERED)
            kills = sum(victim.kills for victim in victims)
    wrong = await judge_events(database_url, receiver, done)
    repeated = sum(receiver.times.values()) - len(receiver.times)
    return Verdict(kills, len(done), len(receiver.received), repeated, wrong)


BOLT = {"sku": "BOLT", "name": "Bolt", "price": "9.99", "quantity": 1_000_000_000}


def webhook(receiver: RecordingReceiver) -> dict[str, Any]:
    return {"url": receiver.url, "events": EVENTS}


async def run_round(
    client: httpx.AsyncClient,
    urls: list[str],
    victims: list[RestartableProcess],
    random: Random,
    done: list[tuple[str, str, str]],
    item_id: str,
    number: int,
    size: int,
) -> None:
    """Send `size` orders and actions, and kill processes in the middle of them."""
    before = len(done)
    points = [before + random.randrange(size // 10, size) for _ in range(KILLS_A_ROUND)]
    work = iter(range(size))

    async def act() -> None:
        for step in work:
            name = f"{number}-{step}"
            if random.random() < 0.5:
                body = {"customer_id": "c", "reference": name, "lines": [{"item_id": item_id, "quantity": 1}]}
                done.append(
                    (
                        "order.placed",
                        name,
                        (await post_until_acknowledged(client, urls, "/orders", body, name))["id"],
                    )
                )
            else:
                made = await post_until_acknowledged(
                    client, urls, "/users/ann/actions", {"action": name}, name
                )
                done.append(("user.action", name, made["id"]))

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(act())
        group.create_task(kill_when_done(points, done, victims, random))


async def judge_events(
    database_url: str, receiver: RecordingReceiver, done: list[tuple[str, str, str]]
) -> list[str]:
    async with connected(database_url) as connection:
        events = await connection.fetch(EVENTS_OF_CHANGES, EVENTS)
        rows = {kind: await connection.fetch(query) for kind, query in STORED.items()}
    stored = {kind: dict(map(tuple, fetched)) for kind, fetched in rows.items()}
    wrong = [f"signature of {webhook_id} is wrong" for webhook_id in receiver.invalid_signatures]
    wrong += [f"{webhook_id} came with two bodies" for webhook_id in receiver.conflicting_bodies]
    wrong += _lost(done, stored, events, receiver)
    wrong += _duplicated(done, stored, events)
    wrong += _unexpected(receiver, stored)
    wrong += await discrepancies(database_url)
    return wrong + await _unsealed(database_url)


def _lost(done: Any, stored: Any, events: Any, receiver: RecordingReceiver) -> Iterator[str]:
    """Yield changes that were acknowledged but not stored, and stored changes that were not delivered."""
    for kind, name, identity in done:
        if stored[kind].get(identity) != name:
            yield f"{kind} {name} was acknowledged as {identity}, and is not there"
    for event_id, kind, subject in events:
        if event_id not in receiver.received:
            yield f"event {event_id} ({kind} {subject}) was never delivered"


def _duplicated(done: Any, stored: Any, events: Any) -> Iterator[str]:
    """Yield keys with two effects, and effects with two events."""
    for kind, found in stored.items():
        for name, count in Counter(found.values()).items():
            if count > 1:
                yield f"{kind} {name} happened {count} times"
    names = {(kind, name) for kind, name, _ in done}
    unasked = [(kind, name) for kind, found in stored.items() for name in found.values()]
    yield from (f"{kind} {name} was not asked for" for kind, name in unasked if (kind, name) not in names)
    placed = Counter(subject for _, kind, subject in events if kind == "order.placed")
    yield from (f"order {subject} has {count} events" for subject, count in placed.items() if count > 1)


def _unexpected(receiver: RecordingReceiver, stored: Any) -> Iterator[str]:
    """Yield deliveries of events that are not stored."""
    for webhook_id, event in receiver.received.items():
        identity = event["data"]["id"] if event["type"] == "order.placed" else webhook_id
        if identity not in stored[event["type"]]:
            yield f"{event['type']} {identity} was delivered, and is not there"


async def _unsealed(database_url: str) -> list[str]:
    settings = Settings(database_url=database_url)
    async with Database(settings).open() as database:
        await seal(database, settings)
        return (await verify(database, settings)).findings
