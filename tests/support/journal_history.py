"""A journal with a history of some hours, and what prunes it."""

from datetime import UTC, datetime, timedelta

from conftest import AS_OWNER
from service.audit.chain import seal
from service.audit.export import encode_line, exported_entries
from service.audit.prune import delete_pruned, prune
from service.audit.sealing_state import Head, Pruned
from service.audit.verify import verify
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import connected

PLAIN = Settings()
"""Without a secret: the key is the database's own."""
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
NOON = NOW - 6 * HOUR
"""Half of the history happened before."""

OLD_EVENTS = """
insert into events (id, type, subject, actor, payload, created_at)
select overlay(overlay(uuidv7()::text placing
    substring(lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') for 8) from 1 for 8) placing
    right(lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0'), 4) from 10 for 4)::uuid,
  'user.action', 'ann', 'key', jsonb_build_object('n', n, 'action', 'login', 'metadata', null), at
from (select n, $1::timestamptz + n * interval '1 minute' as at from generate_series(1, $2::int) n) t"""
"""Inserts one event a minute, with the ids of their times."""


async def happened(database: Database, since: datetime, count: int = 10) -> None:
    await database.fetch(OLD_EVENTS, since, count)


async def count(database: Database) -> int:
    return int(await database.fetchval("select count(*) from events where subject = 'ann'"))


async def export(database: Database) -> list[bytes]:
    return [encode_line(entry) async for entry in exported_entries(database)]


async def prune_all(database: Database, before: datetime = NOON, lines: list[bytes] | None = None) -> Pruned:
    pruned = await prune(database, PLAIN, before, lines or await export(database))
    await delete_pruned(database, PLAIN)
    return pruned


async def watermark(database: Database) -> datetime:
    time: datetime = await database.fetchval("select settled_at from sealing")
    return time


async def findings(database: Database, anchor: Head | None = None) -> list[str]:
    return (await verify(database, PLAIN, anchor)).findings


async def tamper(database_url: str, statement: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute(f"{AS_OWNER}; {statement}")


async def recently(database: Database, count: int) -> None:
    """Record events now."""
    await database.fetch(
        """insert into events (type, subject, actor, payload)
           select 'user.action', 'ann', 'key', '{}' from generate_series(1, $1::int)""",
        count,
    )


async def record_history(database: Database) -> Database:
    """Record ten events before noon and ten after it, and seal them."""
    await happened(database, NOON - HOUR)
    await happened(database, NOON + HOUR)
    assert await seal(database, PLAIN) >= 20
    return database
