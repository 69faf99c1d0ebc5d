"""The sealing state: the end of the chain and the watermark, authenticated with the chain's key.

Without it, the owner of the database could delete seals, change their events and have them sealed again.
"""

import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from msgspec import Struct

from service.database.servers import Connection
from service.times import lowest_uuid7

# The column `settled_at` is the watermark. asyncpg returns -infinity without a time zone.
WATERMARK = "greatest(settled_at, '0001-01-01 00:00+00')"
PRUNED = "pruned_position, pruned_hash, pruned_id"
READ_STATE = f"select {WATERMARK}, mac, {PRUNED} from sealing"
READ_PRUNED = f"select {PRUNED} from sealing"
READ_WATERMARK = f"select {WATERMARK} from sealing"
WRITE_STATE = f"""
insert into sealing (id, settled_at, mac, {PRUNED}) values (true, $1, $2, $3, $4, $5)
on conflict (id) do update set (settled_at, mac, {PRUNED})
  = (excluded.settled_at, excluded.mac, excluded.pruned_position, excluded.pruned_hash, excluded.pruned_id)"""
READ_HEAD = "select position, hash from seals order by position desc limit 1"
HAS_SEAL = "select exists (select from seals where position = $1 and hash = $2)"
HAS_OLDER_EVENTS = "select exists (select from events where id < $1)"

NEVER = datetime(1, 1, 1, tzinfo=UTC)
"""The watermark before the first sealing."""
NEW_JOURNAL_AGE = timedelta(days=1)
"""Maximum age of a journal whose chain starts without `depot audit accept`."""

STATE_DELETED = "the sealing state was deleted"
STATE_MISMATCH = "the sealing state does not match the chain: seals were deleted, or the state was changed"
NOT_ACCEPTED = (
    "the chain is not authenticated; compare its head with an anchor, then run `depot audit accept`"
)


ANCHOR = re.compile(r"[0-9]{1,18}:[0-9A-Fa-f]{64}\Z")


class Head(Struct, frozen=True):
    """The newest link of the chain, or an earlier one. Its `str` is an anchor for `depot audit verify`."""

    position: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.position}:{self.hash.hex()}"

    @staticmethod
    def parse(anchor: str) -> "Head":
        """Parse an anchor. Raises `ValueError`."""
        if not ANCHOR.match(anchor):
            raise ValueError("must be a seal as `depot audit head` prints it, such as 1200:9f86d0…")
        position, _, digest = anchor.partition(":")
        return Head(int(position), bytes.fromhex(digest))


GENESIS = Head(0, bytes(32))


class StateProblem(Exception):
    """The reason why the sealing state does not belong to the chain."""


class Pruned(Struct, frozen=True):
    """The extent of all prunes: the events up to the seal `anchor`, of which `event_id` is the newest id.

    The seal itself is kept, so that the chain that can be verified begins there.
    """

    anchor: Head
    event_id: UUID


NOTHING_PRUNED = Pruned(GENESIS, UUID(int=0))


async def read_pruned(connection: Connection) -> Pruned:
    row = await connection.fetchrow(READ_PRUNED)
    return _pruned(*row) if row else NOTHING_PRUNED


async def read_watermark(connection: Connection) -> datetime:
    """Return the time before which every event is sealed."""
    watermark: datetime | None = await connection.fetchval(READ_WATERMARK)
    return watermark or NEVER


def watermark_id(watermark: datetime) -> UUID:
    """Return a lower bound for the ids of unsealed events."""
    return UUID(int=0) if watermark == NEVER else lowest_uuid7(watermark)


async def read_head(connection: Connection) -> Head:
    """Return the end of the chain."""
    row = await connection.fetchrow(READ_HEAD)
    return Head(*row) if row else GENESIS


async def is_in_chain(connection: Connection, seal: Head) -> bool:
    """Return whether the chain contains a seal. Every chain contains `GENESIS`."""
    return seal == GENESIS or bool(await connection.fetchval(HAS_SEAL, seal.position, seal.hash))


async def write_state(
    connection: Connection, key: bytes, watermark: datetime, head: Head, pruned: Pruned
) -> None:
    """Store the watermark and what was pruned, bound to the end of the chain."""
    mac = _mac(key, watermark, head, pruned)
    await connection.execute(
        WRITE_STATE, watermark, mac, pruned.anchor.position, pruned.anchor.hash, pruned.event_id
    )


async def find_state_problem(connection: Connection, keys: Sequence[bytes], head: Head) -> str | None:
    """Return why the state does not belong to a chain that ends at `head`, or None.

    One of the keys must have authenticated it.
    """
    row = await connection.fetchrow(READ_STATE)
    if row is None:
        return STATE_DELETED
    watermark, mac, *pruned = row
    if mac is None:
        return None if head == GENESIS and await _is_new(connection) else NOT_ACCEPTED
    authentic = [_mac(key, watermark, head, _pruned(*pruned)) for key in keys]
    is_authentic = any(hmac.compare_digest(mac, expected) for expected in authentic)
    return None if is_authentic else STATE_MISMATCH


async def _is_new(connection: Connection) -> bool:
    now: datetime = await connection.fetchval("select now()")
    oldest = lowest_uuid7(now - NEW_JOURNAL_AGE)
    return not await connection.fetchval(HAS_OLDER_EVENTS, oldest)


def _pruned(position: int, hash_: bytes, event_id: UUID) -> Pruned:
    return Pruned(Head(position, hash_), event_id)


def _mac(key: bytes, watermark: datetime, head: Head, pruned: Pruned) -> bytes:
    state = f"state {watermark.isoformat()} {head}"
    if pruned != NOTHING_PRUNED:  # without a prune, the MAC is that of version 0.2
        state += f" pruned {pruned.anchor} {pruned.event_id}"
    return hmac.digest(key, state.encode(), "sha256")
