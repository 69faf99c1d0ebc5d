"""Tamper evidence: a hash chain over the journal, written off the hot path.

Each link is a keyed hash of one event and the previous link. Editing, deleting or reordering rows breaks the
chain at that row. `sealing_state.py` detects that seals at the end were deleted. An anchor, which is an
earlier head stored elsewhere, reveals that the whole database was reverted to an older state.
"""

import hashlib
import hmac
from weakref import WeakKeyDictionary

import asyncpg
import structlog

from service.audit.sealing_state import (
    GENESIS,
    Head,
    StateProblem,
    find_state_problem,
    is_in_chain,
    read_head,
    read_pruned,
    read_watermark,
    watermark_id,
    write_state,
)
from service.auth.keys import READ_PEPPER, derive_pepper
from service.database.clock import MAX_CLOCK_SKEW
from service.database.database import Database
from service.database.servers import Connection
from service.database.transactions import OLDEST_OPEN_TRANSACTION
from service.settings import Settings

log = structlog.get_logger()

SEALING_LOCK = 0x7365616C  # "seal"
BATCH_SIZE = 10_000

DIGEST = """sha256(convert_to(jsonb_build_array(e.id, e.type, e.subject, e.actor, e.request_id, e.payload,
  extract(epoch from e.created_at))::text, 'UTF8'))"""
"""Digest of all columns of an event, independent of session settings."""

UNSEALED = f"""
select e.id, {DIGEST} as digest from events e
where e.id >= $1 and e.id <= $2 and not exists (select from seals s where s.event_id = e.id)
order by e.id limit {BATCH_SIZE}"""
READ_NEWEST_ID = "select id from events order by id desc limit 1"

CHAIN_REWOUND = "the chain no longer contains the last seal of this process"

_last_heads: WeakKeyDictionary[Database, Head] = WeakKeyDictionary()
"""The last head that this process wrote. It reveals that an older chain and state were restored."""


async def seal(database: Database, settings: Settings) -> int:
    """Append the events recorded since the last run to the chain, and log its head as an anchor.

    Return their number, or 0 if another process is sealing. If the state does not belong to the chain,
    nothing is sealed: sealing forged history would make it genuine.
    """
    keys = await chain_keys(database, settings)
    async with database.dedicated_connection() as connection, connection.transaction():
        await connection.execute("set local statement_timeout = 0")
        if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", SEALING_LOCK):
            return 0
        head = await read_head(connection)
        last = _last_heads.get(database, GENESIS)
        problem = await find_state_problem(connection, keys, head) or await _find_rewinding(connection, last)
        if problem:
            log.error("audit_sealing_refused", cause=problem)
            return 0
        sealed, head = await _seal_new_events(connection, keys[0], head)
    _last_heads[database] = head
    if sealed:
        log.info("audit_sealed", count=sealed, anchor=str(head))
    return sealed


async def read_authentic_head(database: Database, settings: Settings) -> Head:
    """Return the end of the chain. Raises `StateProblem` if the state does not belong to it."""
    keys = await chain_keys(database, settings)
    async with (
        database.dedicated_connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        head = await read_head(connection)
        if problem := await find_state_problem(connection, keys, head):
            raise StateProblem(problem)
    return head


async def accept(database: Database, settings: Settings) -> Head:
    """Authenticate the present chain and its watermark with the key; return the head."""
    key, *_ = await chain_keys(database, settings)
    async with database.dedicated_connection() as connection, connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", SEALING_LOCK)
        head = await read_head(connection)
        watermark, pruned = await read_watermark(connection), await read_pruned(connection)
        await write_state(connection, key, watermark, head, pruned)
    return head


async def _seal_new_events(connection: Connection, key: bytes, head: Head) -> tuple[int, Head]:
    # Transactions that start later record events with later ids, so this is the next watermark.
    oldest = await connection.fetchval(OLDEST_OPEN_TRANSACTION)
    watermark = await read_watermark(connection)
    begin, sealed_before = watermark_id(watermark), head.position
    # Without an end the transaction would last as long as others write faster than one batch is sealed.
    end = await connection.fetchval(READ_NEWEST_ID)
    while batch := await connection.fetch(UNSEALED, begin, end):
        head = await _append(connection, key, head, batch)
        begin = batch[-1]["id"]
    pruned = await read_pruned(connection)
    await write_state(connection, key, max(watermark, oldest - MAX_CLOCK_SKEW), head, pruned)
    return head.position - sealed_before, head


async def _find_rewinding(connection: Connection, last: Head) -> str | None:
    """Return a problem if the chain lost the last seal of this process other than by a prune."""
    if await is_in_chain(connection, last):
        return None
    was_pruned = last.position < (await read_pruned(connection)).anchor.position
    return None if was_pruned else CHAIN_REWOUND


async def _append(connection: Connection, key: bytes, head: Head, batch: list[asyncpg.Record]) -> Head:
    links = []
    for event_id, digest in batch:
        head = Head(head.position + 1, link_hash(key, head.hash, digest))
        links.append((head.position, event_id, head.hash))
    await connection.copy_records_to_table("seals", records=links, columns=("position", "event_id", "hash"))
    return head


def link_hash(key: bytes, previous_hash: bytes, digest: bytes) -> bytes:
    """Return the hash of a link from the digest of its event and the previous link."""
    return hmac.digest(key, previous_hash + digest, "sha256")


async def chain_keys(database: Database, settings: Settings) -> list[bytes]:
    """Return the key of the chain, and the previous one while the secret is changed.

    It is derived from `DEPOT_SECRET`, which the database does not know; without it, from the stored pepper.
    """
    current = derive_pepper(settings.secret) or await database.fetchval(READ_PEPPER)
    peppers = filter(None, (current, derive_pepper(settings.secret_previous)))
    return [hashlib.sha256(b"depot audit chain" + pepper).digest() for pepper in peppers]
