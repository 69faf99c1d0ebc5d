"""Job kind `report.export`: sales and refunds of each day, as a CSV file in the blob store."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from service.database.servers import Connection
from service.errors import ValidationFailed
from service.jobs.context import JobContext
from service.jobs.kinds import Kind
from service.jobs.schemas import Output
from service.reports import statements
from service.reports.financial import COLUMNS, period
from service.values import Currency, encode_csv

ROWS_PER_FETCH = 1000
STATEMENT_TIMEOUT_SECONDS = 600.0
"""Timeout of the first rows; the others are ready by then."""


class ReportExport(Struct, rename={"from_": "from"}, forbid_unknown_fields=True):
    """Period of the export; by default the 30 days up to and including the day of the request (UTC)."""

    from_: Annotated[date, Meta(description="First day of the period (UTC).")] | None = None
    to: Annotated[date, Meta(description="Day after the period (exclusive, UTC).")] | None = None
    currency: Currency | None = None

    def __post_init__(self) -> None:
        try:
            period(self.from_, self.to, datetime.now(UTC).date())
        except ValidationFailed as fault:
            (detail,) = fault.details
            raise ValueError(f"`{detail.field[1:]}` {detail.message}") from None


class ExportResult(Struct):
    rows: int
    output: Output


async def export_report(task: JobContext, payload: ReportExport) -> ExportResult:
    """Export the report; a second run writes the same file."""
    begin, end = period(payload.from_, payload.to, requested_on(task.id))
    key, rows = f"exports/{task.id}.csv", 0

    async def content(connection: Connection) -> AsyncIterator[bytes]:
        nonlocal rows
        yield encode_csv([COLUMNS]).encode()
        days = await connection.cursor(
            statements.DAILY, begin, end, payload.currency, timeout=STATEMENT_TIMEOUT_SECONDS
        )
        while batch := await days.fetch(ROWS_PER_FETCH, timeout=STATEMENT_TIMEOUT_SECONDS):
            rows += len(batch)
            yield encode_csv(batch).encode()
            await task.report_progress(99 * (batch[-1]["date"] - begin).days // (end - begin).days)

    async with task.database.session() as session, session.transaction():
        await session.execute(statements.LONG_TIMEOUTS)
        size_bytes = await task.blobs.put(key, content(await session.connection()))
    return ExportResult(
        rows, Output(key, f"financial-{begin}-{end}.csv", "text/csv; charset=utf-8", size_bytes)
    )


def requested_on(job_id: UUID) -> date:
    """Return the UTC day of the request, from the job's UUIDv7 (RFC 9562 §5.7).

    So every run of the job covers the same period.
    """
    return datetime.fromtimestamp((job_id.int >> 80) / 1000, UTC).date()


EXPORT = Kind("report.export", ReportExport, export_report)
