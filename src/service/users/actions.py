"""User actions. An action is only an event: one insert stores it and creates its deliveries."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct

from service.database.batch import BatchKind
from service.database.batch_key import BatchKey
from service.database.lists import ListQuery
from service.database.named_sql import NamedSql
from service.database.session import Session
from service.errors import NotFound
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

NEW_ID = "select uuidv7(), pg_current_xact_id()"
"""Ids come from the database's clock, because the audit chain relies on their order.

The transaction is given an id too, by which the feed of events knows that it writes.
"""

_INSERT_ACTIONS = """
insert into events (id, type, subject, actor, request_id, payload)
select id, 'user.action', user_id, actor, request_id, payload from actions"""
_ACTIONS = """
  select * from unnest(:user_ids::text[], :actors::text[], :request_ids::text[], :payloads::jsonb[])
    with ordinality as t (user_id, actor, request_id, payload, number)"""

INSERT_ACTIONS = NamedSql(f"""
with actions as materialized (select uuidv7() as id, action.* from ({_ACTIONS}) action
), inserted_events as ({_INSERT_ACTIONS}
)
select id from actions order by number""")
INSERT_ACTION_IDEMPOTENTLY = NamedSql(f"""
with stored_replies as ({STORE_REPLIES}
), actions as (select :id::uuid as id, action.* from ({_ACTIONS}) action
)
{_INSERT_ACTIONS}
where exists (select from stored_replies) returning 1""")
"""Returns nothing if the claim is taken."""

COLUMNS = "id, subject, payload->>'action', payload->'metadata', created_at"
READ = f"select {COLUMNS} from events where id = $2 and subject = $1 and type = 'user.action'"
LIST = ListQuery(
    f"select {COLUMNS} from events",
    {"user_id": "subject = ${user_id} and type = 'user.action'", "after": "id < ${after}"},
    "id desc",
)


class RecordedAction(Struct, frozen=True):
    """An action with its author."""

    user_id: str
    action: ActionCreate
    author: Author


async def record_actions(session: Session, actions: Sequence[RecordedAction]) -> list[ActionCompleted]:
    """Store the actions of one batch."""
    rows = await session.fetch(*INSERT_ACTIONS(**_columns(actions)))
    return [ActionCompleted(row["id"]) for row in rows]


RECORD_ACTION: BatchKey[RecordedAction, ActionCompleted] = BatchKey("record actions")
BATCHES = [BatchKind(RECORD_ACTION, record_actions)]


async def record_action(
    session: Session, user_id: str, new: ActionCreate, author: Author, claim: Claim | None
) -> ActionCompleted:
    """Store an action. Raises `Replay` if the claim already has a stored reply."""
    action = RecordedAction(user_id, new, author)
    if claim is None:
        return await session.join(RECORD_ACTION, action)
    async with session.transaction():
        completed = ActionCompleted(await session.fetchval(NEW_ID))
        reply = StoredReply(claim, 201, {"Location": location(user_id, completed.id)}, encode_json(completed))
        row = _columns([action])
        statement = INSERT_ACTION_IDEMPOTENTLY(id=completed.id, **row, **reply_arguments([reply]))
        if not await session.fetchval(*statement):
            await raise_claim_conflict(session, claim)
    return completed


def location(user_id: str, action_id: UUID) -> str:
    return f"/users/{user_id}/actions/{action_id}"


def _columns(actions: Sequence[RecordedAction]) -> dict[str, list[Any]]:
    return {
        "user_ids": [action.user_id for action in actions],
        "actors": [action.author.actor for action in actions],
        "request_ids": [action.author.request_id for action in actions],
        "payloads": [
            {"user_id": action.user_id, "action": action.action.action, "metadata": action.action.metadata}
            for action in actions
        ],
    }


async def read_action(session: Session, user_id: str, action_id: UUID) -> Action:
    row = await session.fetchrow(READ, user_id, action_id)
    if row is None:
        raise NotFound
    return Action(*row)


async def list_actions(session: Session, user_id: str, after: UUID | None, limit: int) -> list[Action]:
    """Return a user's actions, newest first."""
    filters = {"user_id": user_id, "after": after}
    return [Action(*row) for row in await LIST.fetch(session, filters, limit)]
