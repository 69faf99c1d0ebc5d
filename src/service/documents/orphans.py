"""Deletes blobs that no document names: left by what died before it could say what they are for."""

from datetime import UTC, datetime, timedelta

from service.blobs import open_blob_store
from service.database.database import Database
from service.documents import statements
from service.documents.store import CONTENT_PREFIX, THUMBNAIL_PREFIX
from service.settings import Settings


async def sweep_orphans(database: Database, settings: Settings) -> int:
    """Only those of some age: a young one may be named any moment. Returns how many."""
    store = open_blob_store(settings)
    before = datetime.now(UTC) - timedelta(seconds=settings.orphan_kept_seconds)
    removed = await store.delete_partial_files(before)
    for prefix in (CONTENT_PREFIX, THUMBNAIL_PREFIX):
        async for keys in store.keys(prefix, before):
            for row in await database.fetch(statements.SELECT_ORPHANS, keys):
                await store.delete(row["key"])
                removed += 1
    return removed
