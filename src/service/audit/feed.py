"""The feed of events: the journal, oldest first, for consumers that store a cursor.

Transactions can commit in a different order than that of their events' ids, so a consumer that followed the
newest id would miss events that commit later. The feed therefore ends at a horizon, the start of the oldest
transaction that may still write. No new event can appear before it.
"""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import structlog
from msgspec import Meta, Struct

from service.audit.trail import FILTERS
from service.auth.keys import Key
from service.database.lists import ListQuery
from service.database.session import Session
from service.database.transactions import CLIENT_SESSIONS, UNKNOWN_START
from service.errors import CursorExpired, Forbidden
from service.events.pruned import READ_PRUNED_ID
from service.times import EARLIEST, lowest_uuid7
from service.values import Timestamp

log = structlog.get_logger()

SCOPES = {
    "item": "items:read",
    "order": "orders:read",
    "resource": "resources:read",
    "user": "users:read",
    "document": "documents:read",
    "job": "jobs:read",
    "webhook": "webhooks:read",
    "delivery": "webhooks:read",
    "key": "admin",
}
"""The scope that reads an event, by the part of its type before the dot."""

SCAN_MAX = 20_000
"""Maximum number of events that one request examines for matches of its filters."""

# An event gets its id from the database's clock while its transaction is open, so the id is later than
# `xact_start`. A transaction without a `backend_xid` has not written yet: the ids of its events will be later
# than `query_start`, the start of its current statement.
HORIZON = f"""
select least(now(), min(case when backend_xid is not null then coalesce(xact_start, {UNKNOWN_START})
  when state = 'disabled' then {UNKNOWN_START}
  when state not like 'idle%' then query_start end)), ({READ_PRUNED_ID})
from {CLIENT_SESSIONS}"""
"""Reads the horizon: no event with an earlier id can appear after this statement.

It is a separate statement, because only a later one sees every transaction that ended before the horizon.
While PostgreSQL hides when a transaction began, the feed returns no new events, because it could miss those
of that transaction. The second column is the newest id of a pruned event.
"""

# A page ends at its last event, not at the horizon, because the database's clock can be set back, or be
# behind after a failover.
READ_LAST_ID = "select id from events where id > $1 and id < $2 order by id desc limit 1"
READ_SCAN_END = f"""
select coalesce(
  (select id from events where id > $1 and id < $2 order by id offset {SCAN_MAX - 1} limit 1),
  ({READ_LAST_ID}))"""

LIST = ListQuery(
    "select id, type, created_at, split_part(type, '.', 1), subject, payload from events",
    {
        "entity": FILTERS["entity"],
        "entity_id": FILTERS["entity_id"],
        "type": "type = ${type}",
        "areas": "split_part(type, '.', 1) = any(${areas}::text[])",
        "after": "id > ${after}",
        "end": "id <= ${end}",
    },
    "id",
    frozenset({"after", "end"}),
)


class FeedEvent(Struct):  # in the order of `LIST`
    id: Annotated[UUID, Meta(description="The `webhook-id` of the event in a webhook delivery.")]
    type: Annotated[str, Meta(examples=["order.placed"])]
    timestamp: Timestamp
    entity: Annotated[str, Meta(examples=["order"])]
    entity_id: str
    data: Annotated[dict[str, Any], Meta(description="The same as in the body of a webhook delivery.")]


class FeedRows(Struct):
    events: list[FeedEvent]
    end: UUID
    """The id up to which the feed was read, unless `events` was cut at the limit."""


async def read_feed(session: Session, filters: Mapping[str, Any], after: UUID | None, limit: int) -> FeedRows:
    """Return the events after an id, oldest first. A filter that is None is ignored.

    Raises `CursorExpired` if events after that id were pruned.
    """
    ((horizon_time, pruned_id),) = await session.fetch(HORIZON)
    begin = after or pruned_id
    if begin < pruned_id:
        raise CursorExpired
    if horizon_time < EARLIEST:
        log.warning("event_feed_blocked", cause="the activity of a session is hidden or not tracked")
    horizon = lowest_uuid7(horizon_time)
    read_end = READ_LAST_ID if filters.get("entity_id") else READ_SCAN_END
    end = await session.fetchval(read_end, begin, horizon) or begin
    rows = await LIST.fetch(session, {**filters, "after": begin, "end": end}, limit)
    return FeedRows([FeedEvent(*row) for row in rows], end)


def readable_areas(key: Key, wanted: str | None) -> list[str] | None:
    """Return the areas whose events a key may read, or None for all of them.

    Raises `Forbidden` if it may not read the wanted area or, without one, any area.
    """
    required = {wanted: SCOPES.get(wanted, "admin")} if wanted else SCOPES
    areas = [area for area, scope in required.items() if key.has_scope(scope)]
    if not areas:
        scopes = sorted(set(required.values()))
        raise Forbidden(
            f"The API key lacks the scope {' or '.join(scopes)}",
            details=[{"scope": scope} for scope in scopes],
        )
    is_narrowed = wanted is not None  # the other filters already select the area
    return None if is_narrowed or key.has_scope("admin") else areas
