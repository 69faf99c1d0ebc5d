"""Job kind `report.export`: sales and refunds of each day, as a CSV file in the blob store."""

from datetime import UTC, date, datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from service.errors import ValidationFailed
from service.jobs.context import JobContext
from service.jobs.csv_file import CsvQuery, ExportResult, write_csv
from service.jobs.kinds import Kind
from service.reports import statements
from service.reports.financial import COLUMNS, period
from service.values import Currency


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


async def export_report(context: JobContext, payload: ReportExport) -> ExportResult:
    """Export the report; a second run writes the same file."""
    begin, end = period(payload.from_, payload.to, requested_on(context.id))
    query = CsvQuery(
        COLUMNS,
        statements.DAILY,
        (begin, end, payload.currency),
        progress=lambda row: 99 * (row["date"] - begin).days // (end - begin).days,
    )
    return await write_csv(context, f"financial-{begin}-{end}.csv", query)


def requested_on(job_id: UUID) -> date:
    """Return the UTC day of the request, from the job's UUIDv7 (RFC 9562 §5.7).

    So every run of the job covers the same period.
    """
    return datetime.fromtimestamp((job_id.int >> 80) / 1000, UTC).date()


EXPORT = Kind("report.export", ReportExport, export_report)
