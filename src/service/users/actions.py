"""An action of a user is an event in the journal and nothing else: one insert stores it and tells of it."""

from uuid import UUID

from uuid_utils.compat import uuid7

from service.db import Database
from service.events.journal import Author
from service.http.idempotency import Claim, Kept, columns, keep, raise_taken
from service.users.schemas import Action, ActionCompleted, NewAction
from service.values import encode_json

ACTION = """
insert into events (id, type, subject, actor, request_id, payload)
select $1::uuid, 'user.action', $2, $3, $4, $5::jsonb"""

ONCE = f"with kept as ({keep(6)}) {ACTION} where exists (select from kept) returning 1"
"""Returns nothing when the claim to do it once is taken."""

LIST = """
select id, subject, payload->>'action', payload->'metadata', created_at from events
where subject = $1 and type = 'user.action' and ($2::uuid is null or id < $2)
order by id desc limit $3"""


async def record_action(
    database: Database, user_id: str, new: NewAction, author: Author, claim: Claim | None
) -> ActionCompleted:
    """Raises `Replay` if the claim was answered before."""
    completed = ActionCompleted(uuid7())
    payload = {"user_id": user_id, "action": new.action, "metadata": new.metadata}
    row = (completed.id, user_id, author.actor, author.request_id, payload)
    if claim is None:
        await database.fetch(ACTION, *row)
        return completed
    kept = Kept(claim, 201, {}, encode_json(completed))
    if not await database.fetchval(ONCE, *row, *columns([kept])):
        async with database.connection() as connection:
            await raise_taken(connection, claim)
    return completed


async def list_actions(database: Database, user_id: str, after: UUID | None, limit: int) -> list[Action]:
    """Newest first."""
    return [Action(*row) for row in await database.fetch(LIST, user_id, after, limit)]
