"""Run all consistency checks and report every violation; changes nothing."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
from msgspec import Struct

from service.audit.verify import verify
from service.blobs import STORAGE_ERRORS, BlobStore, open_blob_store
from service.cli.doctor.checks import CHECKS, REFERENCED_BLOBS
from service.database.database import Database
from service.database.servers import Connection
from service.errors import NotFound
from service.settings import Settings

LISTED_MAX = 100
"""Violations listed per check."""
PREFIXES = ("documents", "thumbnails", "exports")

CHAIN_CHECK = "the audit chain is intact"
MISSING_BLOBS_CHECK = "every referenced blob exists"
ORPHAN_BLOBS_CHECK = "every blob is referenced"
STORE_CHECK = "the blob store is readable"
CHECK_NAMES = (*CHECKS, CHAIN_CHECK, MISSING_BLOBS_CHECK, ORPHAN_BLOBS_CHECK, STORE_CHECK)


class Finding(Struct, frozen=True):
    """A violation of the invariant that the check is named after."""

    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"


async def run_checks(database: Database, settings: Settings) -> AsyncIterator[tuple[str, list[Finding]]]:
    """Yield each check's name and findings as it finishes. Each check sees one snapshot.

    All checks but those of blobs, which need a temporary table, read from the standby if there is one.
    """
    source = await database.for_long_reads()
    async with _connection(source) as connection:
        for check, statement in CHECKS.items():
            yield check, _findings(check, await violations(connection, statement))
    chain = (await verify(source, settings)).findings
    yield CHAIN_CHECK, _findings(CHAIN_CHECK, chain)
    async with _connection(database) as connection:
        async for check, findings in _check_blobs(connection, settings):
            yield check, findings


@asynccontextmanager
async def _connection(database: Database) -> AsyncIterator[Connection]:
    """Yield a connection for statements that take long and sort much."""
    async with database.dedicated_connection() as connection:
        await connection.execute("set statement_timeout = 0; set work_mem = '256MB'")
        yield connection


async def violations(connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> list[str]:
    """Return the violations as text: one more than is listed, to show that there are more."""
    rows = await connection.fetch(f"select * from ({statement}) violations limit {LISTED_MAX + 1}")
    return [", ".join(f"{name} {value}" for name, value in row.items()) for row in rows]


def _findings(check: str, texts: Iterable[str]) -> list[Finding]:
    findings = [Finding(check, text) for text in texts]
    return findings if len(findings) <= LISTED_MAX else [*findings[:LISTED_MAX], Finding(check, "and more")]


async def _check_blobs(
    connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings
) -> AsyncIterator[tuple[str, list[Finding]]]:
    """Check that referenced blobs exist, and that stored blobs are referenced.

    Blobs that are too young to be swept are exempt: their row may not be committed yet.
    """
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
        yield STORE_CHECK, []
    except STORAGE_ERRORS as error:
        yield STORE_CHECK, [Finding(STORE_CHECK, repr(error))]


async def _list(connection: "asyncpg.Connection[asyncpg.Record]", store: BlobStore, before: datetime) -> None:
    """Fill the temporary table `stored_keys` with the keys of the store."""
    await connection.execute(
        "drop table if exists stored_keys; create temporary table stored_keys (key text)"
    )
    for prefix in PREFIXES:
        async for keys in store.keys(prefix, before):
            await connection.copy_records_to_table("stored_keys", records=[(key,) for key in keys])


MISSING = (
    f"select * from ({REFERENCED_BLOBS}) referenced "
    "where not exists (select from stored_keys where stored_keys.key = referenced.key)"
)
IS_REFERENCED = f"select exists (select from ({REFERENCED_BLOBS}) referenced where key = $1)"
UNREFERENCED = (
    "select key from stored_keys "
    f"where not exists (select from ({REFERENCED_BLOBS}) referenced where referenced.key = stored_keys.key)"
)


async def _missing(
    connection: "asyncpg.Connection[asyncpg.Record]", store: BlobStore, rows: Iterable[asyncpg.Record]
) -> AsyncIterator[str]:
    """Yield the missing blobs. The store changes while it is listed, so each one is checked again."""
    for row in rows:
        try:
            await store.get(row["key"])
        except NotFound:
            if await connection.fetchval(IS_REFERENCED, row["key"]):
                yield f"{row['key']}, referenced by {row['referenced_by']}"
