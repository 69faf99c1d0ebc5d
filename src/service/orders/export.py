"""Job kind `orders.export`: the lines of all orders of a period, as a CSV file in the blob store."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated
from uuid import UUID

import asyncpg
from msgspec import Meta

from service.constraints import Body
from service.items.csv_rows import escape_formula
from service.jobs.context import JobContext
from service.jobs.csv_file import CsvQuery, ExportResult, write_csv
from service.jobs.kinds import Kind
from service.orders import statements
from service.orders.queries import period_filters
from service.orders.schemas import Status
from service.times import TIME_FORMAT, parse_time

FREE_TEXT = frozenset(statements.EXPORT_COLUMNS.index(name) for name in statements.EXPORT_FREE_TEXT)


def time_problem(text: str) -> str | None:
    """Return what is wrong with a time, or None."""
    try:
        parse_time(text)
    except ValueError as error:
        return str(error)
    return None


def _time(description: str, example: str) -> Meta:
    return Meta(
        max_length=64,
        description=f"{description} {TIME_FORMAT}",
        examples=[example],
        extra={"rule": time_problem},
    )


class OrdersExport(Body, rename={"from_": "from"}):
    """Period of the export, by the time at which orders were placed."""

    from_: Annotated[str, _time("Only orders placed at or after this time.", "2026-11-01")]
    to: Annotated[str, _time("Only orders placed before this time.", "2026-12-01")]
    status: Annotated[Status, Meta(description="Only orders with this status.")] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if parse_time(self.from_) >= parse_time(self.to):
            raise ValueError("`to` must be after `from`")


async def export_orders(context: JobContext, payload: OrdersExport) -> ExportResult:
    """Export the orders as they are when the job runs."""
    begin, end = parse_time(payload.from_), parse_time(payload.to)
    period = period_filters(begin, end)
    query = CsvQuery(
        statements.EXPORT_COLUMNS,
        statements.EXPORT,
        (*period.values(), payload.status),
        progress=lambda row: _progress(row["id"], begin, end),
        cells=_cells,
    )
    return await write_csv(context, f"orders-{begin:%Y%m%dT%H%M%SZ}-{end:%Y%m%dT%H%M%SZ}.csv", query)


def _progress(order_id: UUID, begin: datetime, end: datetime) -> int:
    placed_at = (order_id.int >> 80) / 1000  # a UUIDv7 starts with milliseconds (RFC 9562 §5.7)
    share = (placed_at - begin.timestamp()) / (end - begin).total_seconds()
    return round(99 * min(max(share, 0.0), 1.0))  # 100 is for the finished job


def _cells(row: asyncpg.Record) -> Iterator[object]:
    for index, cell in enumerate(row):
        yield escape_formula(cell) if index in FREE_TEXT and cell else cell


ORDERS_EXPORT = Kind("orders.export", OrdersExport, export_orders)
