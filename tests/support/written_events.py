"""Events that tests write without the service."""

import json
from typing import Any

INSERT = """
insert into events (type, subject, actor, payload) values ($1, $2, 'cli', $3::text::jsonb) returning id"""


async def write_event(connection: Any, type_: str, subject: str, **payload: object) -> str:
    """Write an event and return its id. `connection` can be a database or a session, too."""
    return str(await connection.fetchval(INSERT, type_, subject, json.dumps(payload)))


async def record(connection: Any, number: int) -> str:
    return await write_event(connection, "user.action", "ann", number=number)
