"""Does all that is stored tell one story? Names everything that does not; changes nothing."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta

import asyncpg
from msgspec import Struct

from service.audit.verify import verify
from service.blobs import STORAGE_ERRORS, BlobStore, open_blob_store
from service.cli.doctor.checks import CHECKS, NAMED_BLOBS
from service.database.database import Database
from service.errors import NotFound
from service.settings import Settings

LISTED_MAX = 100
"""Differences of one kind that are named; of more it is only said that there are."""
FOLDERS = ("documents", "thumbnails", "exports")

CHAIN_CHECK = "the journal's chain is broken"
MISSING_BLOBS_CHECK = "a blob is missing"
ORPHAN_BLOBS_CHECK = "a blob is named by nothing"
STORE_CHECK = "the blob store cannot be read"
CHECK_NAMES = (*CHECKS, CHAIN_CHECK, MISSING_BLOBS_CHECK, ORPHAN_BLOBS_CHECK, STORE_CHECK)


class Finding(Struct, frozen=True):
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


async def run_checks(database: Database, settings: Settings) -> AsyncIterator[tuple[str, list[Finding]]]:
    """What each check finds, as it ends. Every check sees one moment of the database."""
    async with database.dedicated_connection() as connection:
        await connection.execute("set statement_timeout = 0; set work_mem = '256MB'")
        for kind, statement in CHECKS.items():
            yield kind, _findings(kind, await violations(connection, statement))
        chain = (await verify(database, settings)).findings
        yield CHAIN_CHECK, _findings(CHAIN_CHECK, chain)
        async for kind, found in _blobs(connection, settings):
            yield kind, found


async def violations(connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> list[str]:
    """One more than are to be named tells that there are more."""
    rows = await connection.fetch(f"select * from ({statement}) found limit {LISTED_MAX + 1}")
    return [", ".join(f"{name} {value}" for name, value in row.items()) for row in rows]


def _findings(kind: str, texts: Iterable[str]) -> list[Finding]:
    found = [Finding(kind, text) for text in texts]
    return found if len(found) <= LISTED_MAX else [*found[:LISTED_MAX], Finding(kind, "and more")]


async def _blobs(
    connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings
) -> AsyncIterator[tuple[str, list[Finding]]]:
    """Rows name blobs, and blobs are named: what is too young to be swept may not be yet."""
    store = open_blob_store(settings)
    try:
        await _list(connection, store, datetime.now(UTC))
        rows = await connection.fetch(MISSING)
        yield (
            MISSING_BLOBS_CHECK,
            _findings(MISSING_BLOBS_CHECK, [text async for text in _missing(connection, store, rows)]),
        )
        await _list(connection, store, datetime.now(UTC) - timedelta(seconds=settings.orphan_kept_seconds))
        yield (
            ORPHAN_BLOBS_CHECK,
            _findings(ORPHAN_BLOBS_CHECK, [row["key"] for row in await connection.fetch(UNREFERENCED)]),
        )
    except STORAGE_ERRORS as error:
        yield STORE_CHECK, [Finding(STORE_CHECK, repr(error))]


async def _list(connection: "asyncpg.Connection[asyncpg.Record]", store: BlobStore, before: datetime) -> None:
    """Fill `there` with the keys of the store."""
    await connection.execute("drop table if exists there; create temporary table there (key text)")
    for folder in FOLDERS:
        async for keys in store.keys(folder, before):
            await connection.copy_records_to_table("there", records=[(key,) for key in keys])


MISSING = (
    f"select * from ({NAMED_BLOBS}) named where not exists (select from there where there.key = named.key)"
)
IS_REFERENCED = f"select exists (select from ({NAMED_BLOBS}) named where key = $1)"
UNREFERENCED = (
    f"select key from there where not exists (select from ({NAMED_BLOBS}) named where named.key = there.key)"
)


async def _missing(
    connection: "asyncpg.Connection[asyncpg.Record]", store: BlobStore, rows: Iterable[asyncpg.Record]
) -> AsyncIterator[str]:
    """Blobs come and go while they are listed: whoever is missed is looked for once more."""
    for row in rows:
        try:
            await store.get(row["key"])
        except NotFound:
            if await connection.fetchval(IS_REFERENCED, row["key"]):
                yield f"{row['key']}, named by {row['named_by']}"
