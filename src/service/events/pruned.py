"""The beginning of the journal: `depot audit prune` deletes older events and retains those with newer ids."""

from uuid import UUID

from service.database.session import Session
from service.errors import CursorExpired

READ_PRUNED_ID = """
select coalesce((select pruned_id from sealing), '00000000-0000-0000-0000-000000000000')"""
"""The newest id that was pruned, or the lowest of all ids."""


async def check_list_cursor(session: Session, after: UUID | None) -> None:
    """Raise `CursorExpired` if the events that follow this id in a list, newest first, were pruned.

    Only an empty page needs this check, because a page follows only if it had an event.
    """
    if after is not None and after <= await session.fetchval(READ_PRUNED_ID):
        raise CursorExpired
