"""Events that are written past the service, for tests of the feed."""

from typing import Any

from service.events.journal import CLI, INSERT_EVENT, event_arguments


async def record(connection: Any, number: int) -> str:
    insert = f"{INSERT_EVENT.replace('$5::jsonb', '$5::text::jsonb')} returning id"
    arguments = event_arguments("user.action", "ann", CLI, {})
    return str(await connection.fetchval(insert, *arguments[:4], f'{{"number": {number}}}'))
