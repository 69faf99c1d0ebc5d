"""Tamper evidence: a hash chain over the journal, written off the hot path.

Each link is a keyed hash of one event and the previous link. Editing, deleting or reordering rows breaks the
chain at that row. Truncation is detected with an anchor, the head printed by an earlier verification.
"""

import hashlib
import hmac
from datetime import datetime
from uuid import UUID

import asyncpg
from msgspec import Struct

from service.audit.trail import lowest_uuid7
from service.auth.keys import derive_pepper
from service.database.database import MAX_CLOCK_SKEW, OLDEST_OPEN_TRANSACTION, Database
from service.settings import Settings

LOCK = 0x7365616C  # "seal"
BATCH_SIZE = 10_000
GENESIS = bytes(32)

READ_PEPPER = "select value from secrets where name = 'pepper'"
READ_WATERMARK = "select settled_at from sealing"
HEAD = "select position, hash from seals order by position desc limit 1"

DIGEST = """sha256(convert_to(jsonb_build_array(e.id, e.type, e.subject, e.actor, e.request_id, e.payload,
  extract(epoch from e.created_at))::text, 'UTF8'))"""
"""Digest of all columns of an event, independent of session settings."""

UNSEALED = f"""
select e.id, {DIGEST} as digest from events e
where e.id >= $1 and not exists (select from seals s where s.event_id = e.id)
order by e.id limit {BATCH_SIZE}"""

ADVANCE_WATERMARK = "update sealing set settled_at = $1"


class Head(Struct, frozen=True):
    """The newest link of the chain. Its `str` is the anchor for `depot audit verify --anchor`."""

    position: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.position}:{self.hash.hex()}"

    @staticmethod
    def parse(anchor: str) -> "Head":
        """Parse an anchor. Raises `ValueError`."""
        position, _, digest = anchor.partition(":")
        return Head(int(position), bytes.fromhex(digest))


async def seal(database: Database, settings: Settings) -> int:
    """Append the events recorded since the last run to the chain.

    Return their number, or 0 if another process is sealing.
    """
    key = await chain_key(database, settings)
    async with database.dedicated_connection() as connection, connection.transaction():
        await connection.execute("set local statement_timeout = 0")
        if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", LOCK):
            return 0
        oldest = await connection.fetchval(OLDEST_OPEN_TRANSACTION)  # later transactions use later ids
        begin = watermark_id(await connection.fetchval(READ_WATERMARK))
        sealed = 0
        while batch := await connection.fetch(UNSEALED, begin):
            await _append(connection, key, batch)
            begin = batch[-1]["id"]
            sealed += len(batch)
        await connection.execute(ADVANCE_WATERMARK, oldest - MAX_CLOCK_SKEW)
    return sealed


async def _append(
    connection: "asyncpg.Connection[asyncpg.Record]", key: bytes, batch: list[asyncpg.Record]
) -> None:
    row = await connection.fetchrow(HEAD)
    head = Head(*row) if row else Head(0, GENESIS)
    links = []
    for event_id, digest in batch:
        head = Head(head.position + 1, link_hash(key, head.hash, digest))
        links.append((head.position, event_id, head.hash))
    await connection.copy_records_to_table("seals", records=links, columns=("position", "event_id", "hash"))


def link_hash(key: bytes, previous_hash: bytes, digest: bytes) -> bytes:
    """Return the hash of a link from the digest of its event and the previous link."""
    return hmac.digest(key, previous_hash + digest, "sha256")


async def chain_key(database: Database, settings: Settings) -> bytes:
    """Return the key of the chain.

    It is derived from `DEPOT_SECRET`, which the database does not know; without it, from the stored pepper.
    """
    pepper = derive_pepper(settings.secret) or await database.fetchval(READ_PEPPER)
    return hashlib.sha256(b"depot audit chain" + pepper).digest()


def watermark_id(settled_at: datetime) -> UUID:
    """Return a lower bound for the ids of unsealed events."""
    return UUID(int=0) if settled_at.year == 1 else lowest_uuid7(settled_at)
