"""Record when keys were last used, to the minute and never on a request's path."""

import asyncio
from contextlib import AbstractAsyncContextManager

import structlog

from service.database.database import Database
from service.database.errors import DATABASE_ERRORS
from service.tasks import running

log = structlog.get_logger()

KEYS_MAX = 1000
"""Keys that one statement writes."""
IS_DUE = "(last_used_at is null or last_used_at < now() - interval '1 minute')"
# Replicas write the same keys: a row that another one is writing is skipped, so they never wait or deadlock.
WRITE_LAST_USE = f"""
with due as (select id from api_keys where id = any($1::text[]) and {IS_DUE} for update skip locked)
update api_keys set last_used_at = now() from due where api_keys.id = due.id"""


class LastUseRecorder:
    """Writes the last use of keys in the background, many keys in one statement.

    A key is due once its stored time is a minute old; the lookup of the key returns whether it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due: set[str] = set()
        self._has_due = asyncio.Event()

    def record(self, key_id: str) -> None:
        self._due.add(key_id)
        self._has_due.set()

    def open(self) -> AbstractAsyncContextManager[None]:
        """Write until the block ends."""
        return running(self._run())

    async def _run(self) -> None:
        while await self._has_due.wait():
            self._has_due.clear()
            while self._due:
                await self._write([self._due.pop() for _ in range(min(len(self._due), KEYS_MAX))])

    async def _write(self, key_ids: list[str]) -> None:
        try:
            await self._database.fetchval(WRITE_LAST_USE, key_ids)
        except DATABASE_ERRORS as error:
            # The next lookup of each key finds it due again.
            log.warning("key_use_not_recorded", keys=len(key_ids), cause=type(error).__name__)
