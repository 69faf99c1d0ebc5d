"""Is the journal what was written? Compares every event with its link in the chain."""

import asyncpg
from msgspec import Struct

from service.audit.chain import DIGEST, GENESIS, READ_WATERMARK, Head, chain_key, link_hash, watermark_id
from service.database.database import Database
from service.settings import Settings

PREFETCH = 5_000
FINDINGS_MAX = 1_000

LINKS = f"""
select s.position, s.event_id, s.hash, case when e.id is not null then {DIGEST} end as digest
from seals s left join events e on e.id = s.event_id order by s.position"""

_UNSEALED = "from events e where e.id {} $1 and not exists (select from seals s where s.event_id = e.id)"
MISSING_FROM_CHAIN = f"select e.id {_UNSEALED.format('<')} order by e.id limit {FINDINGS_MAX}"
COUNT_UNSEALED = f"select count(*) {_UNSEALED.format('>=')}"


class Verification(Struct):
    """`findings` is empty if all is well; `awaiting` events are too young to be sealed."""

    head: Head
    awaiting: int
    findings: list[str]


async def verify(database: Database, settings: Settings, anchor: Head | None = None) -> Verification:
    """Read the whole journal in one snapshot. `anchor`: a head printed earlier, to be found again."""
    key = await chain_key(database, settings)
    findings: list[str] = []
    head = Head(0, GENESIS)
    async with (
        database.dedicated_connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute("set local statement_timeout = 0")
        async for row in connection.cursor(LINKS, prefetch=PREFETCH):
            if problem := _check_link(key, head, row, anchor):
                findings.append(problem)
            head = Head(row["position"], row["hash"])
            if len(findings) >= FINDINGS_MAX:
                break
        if anchor is not None and anchor.position > head.position:
            findings.append(f"the chain ends at {head.position}, before the anchor {anchor.position}")
        settled = watermark_id(await connection.fetchval(READ_WATERMARK))
        left_out = await connection.fetch(MISSING_FROM_CHAIN, settled)
        findings += [f"event {row['id']} was left out of the chain" for row in left_out]
        awaiting: int = await connection.fetchval(COUNT_UNSEALED, settled)
    return Verification(head, awaiting, findings)


def _check_link(key: bytes, before: Head, row: asyncpg.Record, anchor: Head | None) -> str | None:
    """The link is compared with the one stored before it, so that one wrong row does not blame the rest."""
    position, event_id = row["position"], row["event_id"]
    if position != before.position + 1:
        return f"seals {before.position + 1} to {position - 1} were deleted"
    if row["digest"] is None:
        return f"event {event_id} (seal {position}) was deleted"
    if row["hash"] != link_hash(key, before.hash, row["digest"]):
        return f"event {event_id} (seal {position}) was changed or moved, or its seal was"
    if anchor is not None and position == anchor.position and row["hash"] != anchor.hash:
        return f"seal {position} is not the one the anchor names: the chain was written anew"
    return None
