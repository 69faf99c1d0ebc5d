"""The sealing state: where the chain ends and how far the journal is sealed, authenticated with its key.

Without it, the owner of the database could delete seals, change their events and have them
sealed again.
"""

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from service.database.servers import Connection
from service.times import lowest_uuid7

WATERMARK = "greatest(settled_at, '0001-01-01 00:00+00')"  # asyncpg returns -infinity without a time zone
READ_STATE = f"select {WATERMARK}, mac from sealing"
READ_WATERMARK = f"select {WATERMARK} from sealing"
WRITE_STATE = """
insert into sealing (id, settled_at, mac) values (true, $1, $2)
on conflict (id) do update set settled_at = excluded.settled_at, mac = excluded.mac"""
READ_HEAD = "select position, hash from seals order by position desc limit 1"
HAS_OLDER_EVENTS = "select exists (select from events where id < $1)"

NEW_JOURNAL_AGE = timedelta(days=1)
"""The oldest age of a journal whose chain starts by itself; later, its start must be accepted."""

STATE_DELETED = "the sealing state was deleted"
STATE_MISMATCH = "the sealing state does not match the chain: seals were deleted, or the state was changed"
NOT_ACCEPTED = (
    "the chain is not authenticated; compare its head with an anchor, then run `depot audit accept`"
)


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


GENESIS = Head(0, bytes(32))


async def read_head(connection: Connection) -> Head:
    """Return the end of the chain."""
    row = await connection.fetchrow(READ_HEAD)
    return Head(*row) if row else GENESIS


async def write_state(connection: Connection, key: bytes, settled_at: datetime, head: Head) -> None:
    """Store the watermark, bound to the end of the chain."""
    await connection.execute(WRITE_STATE, settled_at, _mac(key, settled_at, head))


async def find_state_problem(connection: Connection, keys: Sequence[bytes], head: Head) -> str | None:
    """Return why the state does not belong to a chain that ends at `head`, or None.

    One of the keys must have authenticated it.
    """
    row = await connection.fetchrow(READ_STATE)
    if row is None:
        return STATE_DELETED
    settled_at, mac = row
    if mac is None:
        return None if head == GENESIS and await _is_new(connection) else NOT_ACCEPTED
    is_authentic = any(hmac.compare_digest(mac, _mac(key, settled_at, head)) for key in keys)
    return None if is_authentic else STATE_MISMATCH


async def _is_new(connection: Connection) -> bool:
    now: datetime = await connection.fetchval("select now()")
    oldest = lowest_uuid7(now - NEW_JOURNAL_AGE)
    return not await connection.fetchval(HAS_OLDER_EVENTS, oldest)


def _mac(key: bytes, settled_at: datetime, head: Head) -> bytes:
    return hmac.digest(key, f"state {settled_at.isoformat()} {head}".encode(), "sha256")
