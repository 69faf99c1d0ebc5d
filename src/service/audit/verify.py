"""Verify the journal: compare every event with its link in the hash chain."""

from collections.abc import AsyncIterator, Sequence

import asyncpg
from msgspec import Struct

from service.audit.chain import DIGEST, chain_keys, link_hash
from service.audit.sealing_state import (
    Head,
    find_state_problem,
    is_in_chain,
    read_pruned,
    read_watermark,
    watermark_id,
)
from service.database.clock import MAX_CLOCK_SKEW
from service.database.database import Database
from service.database.servers import Connection
from service.settings import Settings

PREFETCH = 5_000
FINDINGS_MAX = 1_000
WHY_MISSING = f"inserted later, or recorded while a clock was off by more than {MAX_CLOCK_SKEW} (h:mm:ss)"

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
    async with (
        database.dedicated_connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute("set local statement_timeout = 0")
        beginning = (await read_pruned(connection)).anchor
        if anchor is not None and anchor.position < beginning.position:
            raise AnchorPruned(beginning)
        head, findings = await _check_links(connection, keys, beginning)
        findings += [problem async for problem in _check_ends(connection, beginning, head, anchor)]
        if problem := await find_state_problem(connection, keys, head):
            findings.append(problem)
        first_unsealed = watermark_id(await read_watermark(connection))
        missing = await connection.fetch(MISSING_FROM_CHAIN, first_unsealed)
        findings += [f"event {row['id']} is missing from the chain: {WHY_MISSING}" for row in missing]
        unsealed: int = await connection.fetchval(COUNT_UNSEALED, first_unsealed)
    return Verification(head, unsealed, findings)


class AnchorPruned(Exception):
    """The seal of the anchor was pruned. `oldest` is the oldest anchor that can still be compared."""

    def __init__(self, oldest: Head) -> None:
        super().__init__()
        self.oldest = oldest


async def _check_links(
    connection: Connection, keys: Sequence[bytes], beginning: Head
) -> tuple[Head, list[str]]:
    """Return the end of the chain, and the first `FINDINGS_MAX` problems."""
    links, head, problems = LinkChecker(keys), beginning, list[str]()
    async for row in connection.cursor(LINKS, head.position, prefetch=PREFETCH):
        problem = links.find_problem(head, row)
        if problem is not None and len(problems) < FINDINGS_MAX:
            problems.append(problem)
        head = Head(row["position"], row["hash"])
    return head, problems


async def _check_ends(
    connection: Connection, beginning: Head, head: Head, anchor: Head | None
) -> AsyncIterator[str]:
    """Yield what is wrong with the beginning of the chain, and with its end as far as the anchor shows it."""
    if not await is_in_chain(connection, beginning):
        yield f"seal {beginning.position}, where the chain begins, was deleted or changed"
    if anchor is not None and not await is_in_chain(connection, anchor):
        yield _describe_loss(anchor, head)


def _describe_loss(anchor: Head, head: Head) -> str:
    if anchor.position <= head.position:
        return f"seal {anchor.position} does not match the anchor: the chain was rewritten"
    return (
        f"the chain ends at seal {head.position}, before the anchor at seal {anchor.position}: "
        "its end was cut off"
    )


class LinkChecker:
    """Checks the links of a chain in their order.

    Links of the previous key come before those of the current one. After the first link of the current key,
    the previous key is no longer accepted, so a leaked secret cannot forge links after its change.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

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
        return None

    def _is_authentic(self, previous: Head, row: asyncpg.Record) -> bool:
        for number, key in enumerate(self._keys):
            if row["hash"] == link_hash(key, previous.hash, row["digest"]):
                self._keys = self._keys[: number + 1]
                return True
        return False
