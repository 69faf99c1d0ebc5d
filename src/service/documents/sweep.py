"""Deletes blobs that no document names: left by what died before it could say what they are for."""

from datetime import UTC, datetime, timedelta

from service.blobs import blobs
from service.db import Database
from service.documents import statements
from service.documents.archive import CONTENTS, THUMBNAILS
from service.settings import Settings


async def sweep_orphans(database: Database, settings: Settings) -> int:
    """Only those of some age: a young one may be named any moment. Returns how many."""
    store = blobs(settings)
    before = datetime.now(UTC) - timedelta(seconds=settings.orphan_kept_seconds)
    removed = await store.sweep_unfinished(before)
    for prefix in (CONTENTS, THUMBNAILS):
        async for keys in store.keys(prefix, before):
            for row in await database.fetch(statements.UNUSED, keys):
                await store.delete(row["key"])
                removed += 1
    return removed
