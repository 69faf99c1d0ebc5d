"""CSV files that jobs write: streamed from a cursor into the blob store."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from math import ceil

import asyncpg
from msgspec import Struct

from service.database.servers import Connection
from service.database.session import Session
from service.jobs.context import JobContext
from service.jobs.schemas import Output
from service.values import encode_csv

ROWS_PER_FETCH = 1000
STATEMENT_TIMEOUT_SECONDS = 600.0
"""Timeout of the first rows of a report; the others are ready by then."""

LONG_TIMEOUTS = (
    "set local statement_timeout = '10min'; set local idle_in_transaction_session_timeout = '10min'"
)
"""A file over years takes time, and so may the blob store."""


class ExportResult(Struct, omit_defaults=True):
    rows: int
    output: Output
    data_age_seconds: int | None = None
    """Seconds by which the rows may be behind, if they were read from a standby."""


class CsvQuery(Struct, frozen=True):
    """The rows of a file, in order, as one statement and its arguments."""

    columns: Sequence[str]
    statement: str
    arguments: Sequence[object]
    progress: Callable[[asyncpg.Record], int]
    """Returns the percentage of the file that ends with a row."""
    cells: Callable[[asyncpg.Record], Iterable[object]] = tuple


async def write_csv(context: JobContext, filename: str, query: CsvQuery) -> ExportResult:
    """Write the file of a job; a second run replaces it."""
    key, rows = f"exports/{context.id}.csv", 0

    async def content(connection: Connection) -> AsyncIterator[bytes]:
        nonlocal rows
        rows = 0
        yield encode_csv([query.columns]).encode()
        cursor = await connection.cursor(query.statement, *query.arguments, timeout=STATEMENT_TIMEOUT_SECONDS)
        while batch := await cursor.fetch(ROWS_PER_FETCH, timeout=STATEMENT_TIMEOUT_SECONDS):
            rows += len(batch)
            yield encode_csv(map(query.cells, batch)).encode()
            await context.report_progress(query.progress(batch[-1]))

    async def write(reader: Session) -> int:
        async with reader.transaction():
            await reader.execute(LONG_TIMEOUTS)
            return await context.blobs.put(key, content(await reader.connection()))

    async with context.database.session() as session:
        size_bytes, age_seconds = await session.read_from_standby(write)
    output = Output(key, filename, "text/csv; charset=utf-8", size_bytes)
    return ExportResult(rows, output, None if age_seconds is None else ceil(age_seconds))
