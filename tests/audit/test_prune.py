"""`depot audit prune` deletes events that are sealed and exported, and the rest can still be verified."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace

from conftest import Client
from service.audit import chain
from service.audit import prune as pruning
from service.audit.chain import SEALING_LOCK, accept, seal
from service.audit.prune import PruneRejected, delete_pruned, prune
from service.audit.sealing_state import Head
from service.audit.verify import AnchorPruned, verify
from service.cli.doctor.run import CHAIN_CHECK, run_checks
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import connected, eventually, wait_for_locks
from tests.support.depot_command import depot_output, start_depot
from tests.support.journal_history import (
    HOUR,
    NOON,
    NOW,
    PLAIN,
    count,
    export,
    findings,
    happened,
    prune_all,
    recently,
    record_history,
    tamper,
    watermark,
)


@pytest.fixture
async def history(database: Database) -> Database:
    return await record_history(database)


async def test_old_events_and_their_seals_are_deleted_and_the_rest_stays_verified(history: Database) -> None:
    before = (await verify(history, PLAIN)).head
    pruned = await prune_all(history)
    assert (await count(history), pruned.anchor.position) == (10, 10)
    assert await history.fetchval("select min(position) from seals") == 10
    verified = await verify(history, PLAIN)
    assert (verified.findings, verified.head) == ([], before)
    await recently(history, 3)
    assert await seal(history, PLAIN) == 3
    assert await findings(history, before) == []


async def test_all_events_can_be_pruned_and_the_chain_continues_from_its_head(
    history: Database, settings: Settings
) -> None:
    head = (await verify(history, PLAIN)).head
    assert (await prune_all(history, NOW - HOUR)).anchor == head
    assert await count(history) == 0
    await recently(history, 2)
    async with Database(settings).open() as other_process:
        assert await seal(other_process, PLAIN) == 2
    assert await findings(history, head) == []


async def test_a_repeated_prune_changes_nothing(history: Database) -> None:
    lines = await export(history)
    first = await prune_all(history, lines=lines)
    assert await prune_all(history, lines=lines) == first
    assert await prune_all(history, NOON - 2 * HOUR, lines) == first
    assert await count(history) == 10
    assert (await prune_all(history, NOW - HOUR, lines)).anchor.position == 20


END_BLOCKED = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock' and pid <> pg_backend_pid()"""


async def end_blocked(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """End the session that waits for a lock. While it checks for a deadlock, it does not seem to wait."""

    async def has_ended() -> bool:
        return bool(await connection.fetch(END_BLOCKED))

    await eventually(has_ended)


@asynccontextmanager
async def blocked_at(database_url: str, position: int) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """Lock the event of a seal, so that its deletion waits until the block ends."""
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute(
            "select from events where id = (select event_id from seals where position = $1) for update",
            position,
        )
        yield connection


async def test_a_prune_that_is_interrupted_between_two_batches_is_completed_by_the_next_run(
    history: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prune(history, PLAIN, NOON, await export(history))
    with monkeypatch.context() as patch:
        patch.setattr(pruning, "BATCH_SIZE", 4)
        async with blocked_at(database_url, 6) as blocker:
            deleting = asyncio.create_task(delete_pruned(history, PLAIN))
            await wait_for_locks(blocker, 1)
            await end_blocked(blocker)
            with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
                await deleting
        assert (await count(history), await findings(history)) == (16, [])
        assert await seal(history, PLAIN) == 0
        assert await delete_pruned(history, PLAIN) == 6
    assert await delete_pruned(history, PLAIN) == 0
    assert (await count(history), await findings(history)) == (10, [])


async def test_after_a_kill_nothing_pruned_is_read_again_and_the_next_run_deletes_it(
    history: Database, database_url: str, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "trail.jsonl"
    file.write_bytes(b"".join(await export(history)))
    arguments = ["audit", "prune", "--before", NOON.isoformat(), "--exported", str(file)]
    async with blocked_at(database_url, 3) as blocker:
        process = start_depot(arguments, env={**os.environ, "DATABASE_URL": database_url})
        await wait_for_locks(blocker, 1)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait, 10)
        await end_blocked(blocker)
    assert (await count(history), await findings(history)) == (20, [])
    feed = (await client.get("/events", params={"type": "user.action"})).json()["data"]
    assert [event["timestamp"] > NOON.isoformat() for event in feed] == [True] * 10
    assert len([line for line in await export(history) if b'"user.action"' in line]) == 10
    assert await seal(history, PLAIN) == 0
    await asyncio.to_thread(depot_output, database_url, *arguments)
    assert (await count(history), await findings(history)) == (10, [])


async def test_an_event_that_was_sealed_late_stays_with_those_before_it_in_the_feed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a newer event could be pruned than the one at a reader's cursor."""
    monkeypatch.setattr(chain, "MAX_CLOCK_SKEW", 12 * HOUR)
    await happened(database, NOON - HOUR)
    await seal(database, PLAIN)
    late = NOON - HOUR + timedelta(minutes=7, seconds=30)
    await happened(database, late - timedelta(minutes=1), 1)
    await happened(database, NOON + HOUR)
    assert await seal(database, PLAIN) == 11
    monkeypatch.undo()
    assert await database.fetchval("update sealing set settled_at = now() returning true")
    await accept(database, PLAIN)
    assert (await prune_all(database, late + timedelta(seconds=1))).anchor.position == 7
    assert await count(database) == 14
    pruned = await prune_all(database)
    assert pruned.anchor.position == 11  # the late event comes after the tenth in the chain
    assert await count(database) == 10
    assert await findings(database) == []


async def test_no_other_row_can_be_deleted(history: Database) -> None:
    await prune(history, PLAIN, NOON, await export(history))
    refused = pytest.raises(asyncpg.RestrictViolationError, match="deleted only after a prune")
    for statement in (
        "delete from events where payload->>'n' = '1' and created_at > $1",
        "delete from seals where position = 10 and $1 > '2020-01-01'::timestamptz",
        "delete from seals where position = 11 and $1 > '2020-01-01'::timestamptz",
    ):
        with refused:
            await history.fetch(statement, NOON)
    for statement in ("update events set actor = 'x'", "truncate events", "truncate seals"):
        with pytest.raises(asyncpg.RestrictViolationError, match="never changed"):
            await history.fetch(statement)
    assert await delete_pruned(history, PLAIN) == 10


FORGERIES = {
    "the state claims that more was pruned": "update sealing set pruned_position = 15, pruned_hash = "
    "(select hash from seals where position = 15), pruned_id = "
    "(select event_id from seals where position = 15)",
    "the state claims that nothing was pruned": "update sealing set pruned_position = 0",
    "the seal where the chain begins is deleted": "delete from seals where position = 10",
    "the seal where the chain begins is changed": "update seals set hash = sha256(hash) where position = 10",
    "an event is inserted before the beginning": "insert into events (id, type, subject, actor, payload) "
    "values ('01900000-0000-7000-8000-000000000000', 'user.action', 'x', 'y', '{}')",
    "the first retained event is deleted": "delete from events e using seals s "
    "where s.event_id = e.id and s.position = 11",
    "the first retained event is changed": "update events e set actor = 'x' from seals s "
    "where s.event_id = e.id and s.position = 11",
}


@pytest.mark.parametrize("statement", FORGERIES.values(), ids=FORGERIES)
async def test_tampering_after_a_prune_is_detected(
    history: Database, database_url: str, statement: str
) -> None:
    await prune_all(history)
    await tamper(database_url, statement)
    assert await findings(history) != []
    doctor = [name for name, found in [check async for check in run_checks(history, PLAIN)] if found]
    assert CHAIN_CHECK in doctor


async def test_an_anchor_of_the_pruned_part_is_rejected_and_a_later_one_is_compared(
    history: Database,
) -> None:
    heads = {
        row["position"]: Head(row["position"], row["hash"])
        for row in await history.fetch("select position, hash from seals")
    }
    await prune_all(history)
    for position in (10, 11, 20):
        assert await findings(history, heads[position]) == []
        forged = Head(position, bytes(32))
        assert await findings(history, forged) == [
            f"seal {position} does not match the anchor: the chain was rewritten"
        ]
    with pytest.raises(AnchorPruned) as refused:
        await verify(history, PLAIN, heads[9])
    assert refused.value.oldest == heads[10]


async def test_a_worker_whose_last_seal_was_pruned_continues_to_seal(
    history: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "MAX_CLOCK_SKEW", timedelta(0))
    async with Database(settings).open() as other_process:
        await recently(other_process, 1)
        assert await seal(other_process, PLAIN) == 1
        assert (await prune_all(history, await watermark(history))).anchor.position == 21
        await recently(history, 1)
        assert await seal(history, PLAIN) == 1


async def test_the_secret_can_be_changed_after_a_prune(history: Database) -> None:
    old = replace(PLAIN, secret="the former secret, of 32 characters at least")
    changing = replace(PLAIN, secret="another secret, of 32 characters at least", secret_previous=old.secret)
    await accept(history, PLAIN)
    await prune_all(history, NOW - HOUR)
    await accept(history, old)
    await recently(history, 1)
    assert await seal(history, changing) == 1
    assert (await verify(history, replace(changing, secret_previous=None))).findings == []


async def test_a_prune_during_other_writes_loses_none_of_their_events(history: Database) -> None:
    ended = asyncio.Event()
    written = 0

    async def write() -> None:
        nonlocal written
        while not ended.is_set():
            await history.fetch(
                "insert into events (type, subject, actor, payload) values ('user.action', 'eve', 'k', '{}')"
            )
            written += 1

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(write())
        await prune_all(history)
        await seal(history, PLAIN)  # which would never end if it sealed all that is written meanwhile
        ended.set()
    assert written > 0
    assert await history.fetchval("select count(*) from events where subject = 'eve'") == written
    await seal(history, PLAIN)
    assert await findings(history) == []


async def test_one_of_two_concurrent_prunes_is_rejected(history: Database, database_url: str) -> None:
    lines = await export(history)
    async with connected(database_url) as blocker, blocker.transaction():
        await blocker.execute("select pg_advisory_xact_lock($1)", SEALING_LOCK)
        first = asyncio.create_task(prune(history, PLAIN, NOON, lines))
        await wait_for_locks(blocker, 1)
        second = asyncio.create_task(prune(history, PLAIN, NOW - HOUR, lines))
        await wait_for_locks(blocker, 2)
    assert (await first).anchor.position == 10
    with pytest.raises(PruneRejected, match="another prune ended in the meantime"):
        await second
    assert await delete_pruned(history, PLAIN) == 10
    assert (await count(history), await findings(history)) == (10, [])
