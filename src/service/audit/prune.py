"""Prune the journal: delete old events that are sealed, and that an exported file holds.

One transaction moves the beginning of the journal, and readers see nothing older from then on. The rows are
deleted afterwards in batches. If that is interrupted, the worker or the next prune completes it.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime
from itertools import dropwhile
from uuid import UUID

from msgspec import MsgspecError, Struct, json

from service.audit.chain import SEALING_LOCK, chain_keys
from service.audit.export import encode_line, exported_entries
from service.audit.sealing_state import (
    NEVER,
    Head,
    Pruned,
    find_state_problem,
    read_head,
    read_pruned,
    read_watermark,
    write_state,
)
from service.audit.verify import verify
from service.database.database import Database
from service.settings import Settings
from service.times import format_time, lowest_uuid7

BATCH_SIZE = 10_000
DELETE_LOCK = 0x7072756E  # "prun"

FIND_PENDING = """
select w.id from webhooks w where exists (
  select from deliveries d where d.webhook_id = w.id and d.due_at is not null and d.event_id <= $1)
limit 1"""

READ_FIRST_POSITION = "select min(position) from seals"

# The last pruned seal is kept: the chain begins there.
DELETE = """
with pruned as materialized (
  select position, event_id from seals where position >= $1 and position < $2 and position <= $3
), deleted_events as (
  delete from events where id = any(array(select event_id from pruned)) returning 1
), deleted_seals as (
  delete from seals where position = any(array(select position from pruned)) and position < $3
)
select count(*) from deleted_events"""


class PruneRejected(Exception):
    """The reason why nothing is pruned, for operators."""


class _Line(Struct):
    id: UUID


async def prune(
    database: Database, settings: Settings, before: datetime, exported: Iterable[bytes]
) -> Pruned:
    """Move the beginning of the journal to `before`, and return it; `delete_pruned` deletes what is older.

    `exported` are the lines of a file of `depot audit export`, which must hold every pruned event as it is
    stored. The feed is ordered by id and the chain by seal, and the orders differ if an event was sealed
    after newer ones. The pruned events must be the oldest ones in both orders, so some older events may be
    left. Raises `PruneRejected`.
    """
    if (await verify(database, settings)).findings:
        raise PruneRejected("the journal does not match its chain; run `depot audit verify`")
    async with database.dedicated_connection() as connection:
        pruned = await read_pruned(connection)
        watermark = await read_watermark(connection)
    if before > watermark:
        raise PruneRejected(_describe_watermark(watermark))
    target = await _find_target(database, pruned, before, exported)
    if target != pruned:
        await _move_beginning(database, settings, pruned, target)
    return target


async def delete_pruned(database: Database, _: Settings) -> int:
    """Delete the pruned events with their seals, and return their number."""
    deleted = 0
    async with database.dedicated_connection() as connection:
        await connection.execute("set statement_timeout = '5min'")
        await connection.execute("select pg_advisory_lock($1)", DELETE_LOCK)
        last = (await read_pruned(connection)).anchor.position
        first = await connection.fetchval(READ_FIRST_POSITION) or last + 1
        for position in range(first, last + 1, BATCH_SIZE):
            deleted += await connection.fetchval(DELETE, position, position + BATCH_SIZE, last)
    return deleted


async def _find_target(
    database: Database, pruned: Pruned, before: datetime, exported: Iterable[bytes]
) -> Pruned:
    """Return the latest event before a time up to which the feed and the chain have the same events."""
    target, last, count = pruned, pruned.anchor, 0
    async for event_id, seal in _exported_seals(database, pruned, before, exported):
        last, count = max(last, seal, key=lambda head: head.position), count + 1
        # If these are as many events as there are seals up to `last`, they are the oldest in the chain too.
        if last.position == pruned.anchor.position + count:
            target = Pruned(last, event_id)
    return target


async def _exported_seals(
    database: Database, pruned: Pruned, before: datetime, exported: Iterable[bytes]
) -> AsyncIterator[tuple[UUID, Head]]:
    """Yield the id and seal of each event before a time. Raises `PruneRejected` if one is not exported."""
    lines = _lines_after(pruned.event_id, exported)
    async for entry in exported_entries(database, lowest_uuid7(before)):
        if next(lines, None) != encode_line(entry):
            raise PruneRejected(
                f"the file does not hold event {entry.id} as it is stored; "
                "write it again with `depot audit export`"
            )
        if entry.seal is None:
            raise PruneRejected(f"event {entry.id} is not sealed")
        yield entry.id, Head(entry.seal.position, bytes.fromhex(entry.seal.hash))


def _lines_after(event_id: UUID, exported: Iterable[bytes]) -> Iterator[bytes]:
    """Return the lines after those of events that an earlier prune has deleted."""
    try:
        yield from dropwhile(lambda line: json.decode(line, type=_Line).id <= event_id, exported)
    except MsgspecError:
        raise PruneRejected("the file was not written by `depot audit export`") from None


async def _move_beginning(database: Database, settings: Settings, expected: Pruned, target: Pruned) -> None:
    keys = await chain_keys(database, settings)
    async with database.dedicated_connection() as connection, connection.transaction():
        await connection.execute("set local statement_timeout = 0")
        await connection.execute("select pg_advisory_xact_lock($1)", SEALING_LOCK)
        head = await read_head(connection)
        if problem := await find_state_problem(connection, keys, head):
            raise PruneRejected(problem)
        if await read_pruned(connection) != expected:
            raise PruneRejected("another prune ended in the meantime; run this one again")
        if webhook := await connection.fetchval(FIND_PENDING, target.event_id):
            raise PruneRejected(
                f"the webhook {webhook} has pending deliveries of such events; "
                "wait until they have ended, or enable or delete the webhook"
            )
        await write_state(connection, keys[0], await read_watermark(connection), head, target)


def _describe_watermark(watermark: datetime) -> str:
    if watermark == NEVER:
        return "no event is sealed yet; start `depot worker`"
    return f"the journal is sealed up to {format_time(watermark)}; prune before that time or an earlier one"
