"""Reading the journal: who changed what, when, and in which request."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from service.database.database import Database
from service.values import Timestamp

ENTITIES = ("item", "order", "resource", "user", "document", "job", "webhook", "key")
ENTITY_WITH_ID = re.compile(rf"({'|'.join(ENTITIES)})/(.+)", re.DOTALL)

_ENTITY = "split_part(type, '.', 1)"
COLUMNS = f"""id, type, {_ENTITY}, subject, actor, request_id, payload->'changes', payload - 'changes',
  created_at"""

FILTERS = {
    "entity": f"{_ENTITY} = ${{entity}}",
    "entity_id": "subject = ${entity_id}",
    "actor": "actor = ${actor}",
    "since": "created_at >= ${since}",
    "since_id": "id >= ${since_id}",
    "until": "created_at < ${until}",
    "after": "id < ${after}",
}
# Entities of one kind are read from their own index: this order and these bounds leave no other. The planner
# would take the journal's, where the next entry most often is of a kind that is frequent, but for the oldest
# ones: the last page of the orders among 20 million entries took 270 ms.
SINGLE_ENTITY_FILTERS = {
    "actor": FILTERS["actor"],
    "since": FILTERS["since"],
    "until": FILTERS["until"],
    "since_id": f"({_ENTITY}, id) >= (${{entity}}, ${{since_id}})",
    "after": f"({_ENTITY}, id) < (${{entity}}, ${{after}})",
}
FIRST_ID, LAST_ID = UUID(int=0), UUID(int=2**128 - 1)


class Entry(Struct):  # in the order of `COLUMNS`
    id: UUID
    type: str
    entity: str
    entity_id: str
    actor: str
    """The id of an API key, `cli`, or `worker`."""
    request_id: str | None
    changes: dict[str, Any] | None
    """By field, `{"from": …, "to": …}`. Null where something began, ended or happened."""
    data: dict[str, Any]
    created_at: Timestamp


async def list_entries(database: Database, filters: Mapping[str, Any], limit: int) -> list[Entry]:
    """Newest first. Filters that are None do not filter."""
    given = {name: value for name, value in filters.items() if value is not None}
    possible, order = FILTERS, "id desc"
    if "entity" in given and "entity_id" not in given:
        possible, order = SINGLE_ENTITY_FILTERS, f"{_ENTITY} desc, id desc"
        given = {"since_id": FIRST_ID, "after": LAST_ID} | given
    positions = {name: position for position, name in enumerate(given, start=1)}
    conditions = [condition.format(**positions) for name, condition in possible.items() if name in given]
    where = f"where {' and '.join(conditions)} " if conditions else ""
    statement = f"select {COLUMNS} from events {where}order by {order} limit ${len(given) + 1}"
    return [Entry(*row) for row in await database.fetch(statement, *given.values(), limit)]


def entity_filters(entity: str | None) -> dict[str, str]:
    """`item` is all items, `item/<id>` one of them, and anything else an id of whatever kind."""
    if entity is None:
        return {}
    if entity in ENTITIES:
        return {"entity": entity}
    if typed := ENTITY_WITH_ID.fullmatch(entity):
        return {"entity": typed[1], "entity_id": typed[2]}
    return {"entity_id": entity}


def lowest_uuid7(moment: datetime) -> UUID:
    """The lowest UUIDv7 of a moment (RFC 9562 §5.7: its first 48 bits are milliseconds)."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)
