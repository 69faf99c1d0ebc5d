"""Verify the journal: compare every event with its link in the hash chain."""

from collections.abc import Sequence

import asyncpg
from msgspec import Struct

from service.audit.chain import CONTAINS, DIGEST, NEVER, chain_keys, link_hash, watermark_id
from service.audit.sealing_state import READ_WATERMARK, Head, Pruned, find_state_problem, read_pruned
from service.database.database import MAX_CLOCK_SKEW, Database
from service.database.servers import Connection
from service.settings import Settings

PREFETCH = 5_000
FINDINGS_MAX = 1_000
WHY_MISSING = f"inserted later, or recorded while a clock was off by more than {MAX_CLOCK_SKEW} (h:mm:ss)"

REWRITTEN = "seal {} does not match the anchor: the chain was rewritten"

LINKS = f"""
select s.position, s.event_id, s.hash, case when e.id is not null then {DIGEST} end as digest
from seals s left join events e on e.id = s.event_id where s.position > $1 order by s.position"""

_UNSEALED = "from events e where e.id {} $1 and not exists (select from seals s where s.event_id = e.id)"
MISSING_FROM_CHAIN = f"select e.id {_UNSEALED.format('<')} order by e.id limit {FINDINGS_MAX}"
COUNT_UNSEALED = f"select count(*) {_UNSEALED.format('>=')}"


class Verification(Struct):
    """Result of a verification.

    `findings` is empty if the journal is intact; `unsealed` counts the events that are not sealed yet.
    """

    head: Head
    unsealed: int
    findings: list[str]


async def verify(database: Database, settings: Settings, anchor: Head | None = None) -> Verification:
    """Verify the journal in one snapshot. `anchor` is an earlier head that the chain must still contain.

    Raises `AnchorPruned` if its seal was pruned.
    """
    keys = await chain_keys(database, settings)
    links = LinkChecker(keys, anchor)
    async with (
        database.dedicated_connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute("set local statement_timeout = 0")
        pruned = await read_pruned(connection)
        findings, head = await _check_beginning(connection, pruned, anchor), pruned.anchor
        async for row in connection.cursor(LINKS, head.position, prefetch=PREFETCH):
            if problem := links.find_problem(head, row):
                findings.append(problem)
            head = Head(row["position"], row["hash"])
            if len(findings) >= FINDINGS_MAX:
                break
        if len(findings) < FINDINGS_MAX and (problem := await find_state_problem(connection, keys, head)):
            findings.append(problem)
        if anchor is not None and anchor.position > head.position:
            findings.append(
                f"the chain ends at seal {head.position}, before the anchor at seal {anchor.position}: "
                "its end was cut off"
            )
        watermark = watermark_id(await connection.fetchval(READ_WATERMARK) or NEVER)
        missing = await connection.fetch(MISSING_FROM_CHAIN, watermark)
        findings += [f"event {row['id']} is missing from the chain: {WHY_MISSING}" for row in missing]
        unsealed: int = await connection.fetchval(COUNT_UNSEALED, watermark)
    return Verification(head, unsealed, findings)


class AnchorPruned(Exception):
    """The seal of the anchor was pruned. `oldest` is the oldest anchor that can still be compared."""

    def __init__(self, oldest: Head) -> None:
        super().__init__()
        self.oldest = oldest


async def _check_beginning(connection: Connection, pruned: Pruned, anchor: Head | None) -> list[str]:
    """Check the seal at which the chain begins after a prune. Raises `AnchorPruned` for an older anchor."""
    first = pruned.anchor
    if anchor is not None and anchor.position < first.position:
        raise AnchorPruned(first)
    findings = []
    if first.position and not await connection.fetchval(CONTAINS, first.position, first.hash):
        findings.append(f"seal {first.position}, where the chain begins, was deleted or changed")
    if anchor is not None and anchor.position == first.position and anchor.hash != first.hash:
        findings.append(REWRITTEN.format(first.position))
    return findings


class LinkChecker:
    """Checks the links of a chain in their order.

    Links of the previous key come before those of the current one. After the first link of the current key,
    the previous key is no longer accepted, so a leaked secret cannot forge links after its change.
    """

    def __init__(self, keys: Sequence[bytes], anchor: Head | None) -> None:
        self._keys = keys
        self._anchor = anchor

    def find_problem(self, previous: Head, row: asyncpg.Record) -> str | None:
        """Return what is wrong with a row, or None.

        Each link is compared with the previous link as stored, so one bad row does not invalidate all later
        ones.
        """
        position, event_id = row["position"], row["event_id"]
        if position != previous.position + 1:
            return f"seals {previous.position + 1} to {position - 1} were deleted"
        if row["digest"] is None:
            return f"event {event_id} (seal {position}) was deleted"
        if not self._is_authentic(previous, row):
            return f"event {event_id} (seal {position}) or its seal was changed or moved"
        anchor = self._anchor
        if anchor is not None and position == anchor.position and row["hash"] != anchor.hash:
            return REWRITTEN.format(position)
        return None

    def _is_authentic(self, previous: Head, row: asyncpg.Record) -> bool:
        for number, key in enumerate(self._keys):
            if row["hash"] == link_hash(key, previous.hash, row["digest"]):
                self._keys = self._keys[: number + 1]
                return True
        return False
