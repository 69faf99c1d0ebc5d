"""HTTP endpoint of the financial report."""

import re
from datetime import UTC, date, datetime
from math import ceil
from typing import Annotated, Any

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from service.database.session import Session
from service.http.operation import operation
from service.http.reply import Reply, attachment, negotiate
from service.http.request import StrictRequest
from service.reports.financial import as_csv, financial_report, period
from service.reports.html import render_page
from service.reports.schemas import Financial, FinancialReport
from service.values import Currency

DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
DATE_SCHEMA = {"format": "date", "pattern": rf"^{DATE.pattern}$"}
JSON, CSV, HTML = "application/json", "text/csv", "text/html"


def parse_date(text: str) -> date:
    """Parse a date. Raises `ValueError` with a message for clients."""
    try:
        if DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:  # not a day of the calendar
        pass
    raise ValueError("must be a date such as 2026-11-23")


class ReportController(Controller):
    path = "/reports"
    tags = ["Reports"]

    @get(
        "/financial",
        opt=operation(
            scope="reports:read",
            media=[CSV, HTML],
            parsers={"from": parse_date, "to": parse_date},
            headers=["X-Data-Age"],
        ),
    )
    async def get_financial_report(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        begin: Annotated[
            str | None,
            QueryParameter(
                name="from", schema_extra=DATE_SCHEMA, description="First day of the period (UTC)."
            ),
        ] = None,
        end: Annotated[
            str | None,
            QueryParameter(
                name="to", schema_extra=DATE_SCHEMA, description="Day after the period (exclusive, UTC)."
            ),
        ] = None,
        currency: Annotated[Currency | None, QueryParameter(description="Only this currency.")] = None,
    ) -> Reply[Financial]:
        """Get the financial report

        Sales and refunds by day and currency, for the 30 days up to and including today by default.
        `Accept: text/csv` returns the days as a file, `text/html` a page with a chart. A deployment can read
        reports from a standby; `X-Data-Age` then has the seconds by which it may be behind.
        """
        today = datetime.now(UTC).date()
        first, after = period(
            None if begin is None else parse_date(begin), None if end is None else parse_date(end), today
        )
        report, age_seconds = await session.read_from_standby(
            lambda reader: financial_report(reader, first, after, currency)
        )
        reply: Reply[Financial] = _negotiated(request, report)
        if age_seconds is not None:
            reply.headers["X-Data-Age"] = str(ceil(age_seconds))
        return reply


def _negotiated(request: StrictRequest, report: FinancialReport) -> Any:
    media_type = negotiate(request, JSON, CSV, HTML)
    if media_type == CSV:
        name = f"financial-{report.from_}-{report.to}.csv"
        headers = {"Content-Disposition": attachment(name), "Vary": "Accept"}
        return Response(as_csv(report.daily), media_type=CSV, headers=headers)
    if media_type == HTML:
        return Response(render_page(report), media_type=HTML, headers={"Vary": "Accept"})
    return Reply(Financial(report), headers={"Vary": "Accept"})
