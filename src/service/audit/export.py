"""Export the journal as JSON lines, each event with its seal."""

from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

import asyncpg
from msgspec import Raw, Struct

from service.audit.sealing_state import read_pruned
from service.audit.trail import ENTITY, Entry
from service.database.database import Database
from service.times import LAST_ID
from service.values import encode_json

PREFETCH = 5_000
# JSON is exported as the text that PostgreSQL returns, so that numbers keep their digits.
EXPORT = f"""
select e.id, e.type, {ENTITY} as entity, e.subject, e.actor, e.request_id,
  (e.payload->'changes')::text as changes,
  (e.payload - 'changes')::text as data, e.created_at, s.position, encode(s.hash, 'hex') as hash
from events e left join seals s on s.event_id = e.id where e.id > $1 and e.id < $2 order by e.id"""


class Seal(Struct):
    """A link of the hash chain; `position:hash` is an anchor for `depot audit verify`."""

    position: int
    hash: str


class ExportedEntry(Entry):
    seal: Seal | None
    """Null if the event is not sealed yet."""


async def exported_entries(database: Database, end: UUID = LAST_ID) -> AsyncIterator[ExportedEntry]:
    """Yield the events before an id, oldest first, from one snapshot."""
    async with (
        database.dedicated_connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute("set local statement_timeout = 0")
        pruned = await read_pruned(connection)
        async for row in connection.cursor(EXPORT, pruned.event_id, end, prefetch=PREFETCH):
            yield _entry(row)


def encode_line(entry: ExportedEntry) -> bytes:
    """Return the line of the file for an event."""
    return encode_json(entry) + b"\n"


def _entry(row: asyncpg.Record) -> ExportedEntry:
    return ExportedEntry(
        id=row["id"],
        type=row["type"],
        entity=row["entity"],
        entity_id=row["subject"],
        actor=row["actor"],
        request_id=row["request_id"],
        changes=cast("Any", row["changes"] and Raw(row["changes"])),
        data=cast("Any", Raw(row["data"])),
        created_at=row["created_at"],
        seal=None if row["position"] is None else Seal(row["position"], row["hash"]),
    )
