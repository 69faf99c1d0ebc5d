"""Deletion of orphaned blobs, left by processes that died before they committed the row."""

from datetime import UTC, datetime, timedelta

from service.blobs import open_blob_store
from service.database.database import Database
from service.documents import statements
from service.documents.store import CONTENT_PREFIX, THUMBNAIL_PREFIX
from service.settings import Settings


async def sweep_orphans(database: Database, settings: Settings) -> int:
    """Delete blobs without a row that are past the grace period, and return their number.

    The row of a younger blob may not be committed yet.
    """
    store = open_blob_store(settings)
    before = datetime.now(UTC) - timedelta(seconds=settings.orphan_kept_seconds)
    deleted = await store.delete_partial_files(before)
    for prefix in (CONTENT_PREFIX, THUMBNAIL_PREFIX):
        async for keys in store.keys(prefix, before):
            for row in await database.fetch(statements.SELECT_ORPHANS, keys):
                await store.delete(row["key"])
                deleted += 1
    return deleted
