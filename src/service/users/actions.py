"""User actions. An action is only an event: one insert stores it and creates its deliveries."""

from uuid import UUID

from msgspec.structs import asdict
from uuid_utils.compat import uuid7

from service.database.named_sql import NamedSql
from service.database.session import Session
from service.events.journal import Author
from service.idempotency.replies import (
    STORE_REPLIES,
    Claim,
    StoredReply,
    raise_claim_conflict,
    reply_arguments,
)
from service.users.schemas import Action, ActionCompleted, ActionCreate
from service.values import encode_json

_INSERT_ACTION = """
insert into events (id, type, subject, actor, request_id, payload)
select :id::uuid, 'user.action', :user_id, :actor, :request_id, :payload::jsonb"""

INSERT_ACTION = NamedSql(_INSERT_ACTION)
INSERT_ACTION_IDEMPOTENTLY = NamedSql(f"""
with stored_replies as ({STORE_REPLIES}) {_INSERT_ACTION}
where exists (select from stored_replies) returning 1""")
"""Returns nothing if the claim is taken."""

LIST = """
select id, subject, payload->>'action', payload->'metadata', created_at from events
where subject = $1 and type = 'user.action' and ($2::uuid is null or id < $2)
order by id desc limit $3"""


async def record_action(
    session: Session, user_id: str, new: ActionCreate, author: Author, claim: Claim | None
) -> ActionCompleted:
    """Store an action. Raises `Replay` if the claim already has a stored reply."""
    completed = ActionCompleted(uuid7())
    payload = {"user_id": user_id, "action": new.action, "metadata": new.metadata}
    row = {"id": completed.id, "user_id": user_id, "payload": payload, **asdict(author)}
    if claim is None:
        await session.fetch(*INSERT_ACTION(**row))
        return completed
    reply = StoredReply(claim, 201, {}, encode_json(completed))
    if not await session.fetchval(*INSERT_ACTION_IDEMPOTENTLY(**row, **reply_arguments([reply]))):
        await raise_claim_conflict(session, claim)
    return completed


async def list_actions(session: Session, user_id: str, after: UUID | None, limit: int) -> list[Action]:
    """Return a user's actions, newest first."""
    return [Action(*row) for row in await session.fetch(LIST, user_id, after, limit)]
