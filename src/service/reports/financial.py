"""The financial report, exact to the cent for days read from the ledger and from rollups."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from msgspec.structs import astuple

from service.database.session import Session
from service.errors import Detail, ValidationFailed
from service.reports import statements
from service.reports.schemas import CurrencyTotal, Day, FinancialReport, TopItem
from service.values import Currency, encode_csv, format_amount

DEFAULT_DAYS = 30
COLUMNS = ("date", "currency", "orders", "sales", "refunds", "net")


def period(begin: date | None, end: date | None, today: date) -> tuple[date, date]:
    """Return the first day of the period and the day after its last.

    The default is the 30 days up to and including today. Raises `ValidationFailed`.
    """
    tomorrow = today + timedelta(days=1)
    try:
        end = end or (tomorrow if begin is None else max(tomorrow, begin + timedelta(days=1)))
        begin = begin or end - timedelta(days=DEFAULT_DAYS)
    except OverflowError:
        field = "/from" if end is None else "/to"
        raise ValidationFailed([Detail(field, "is outside the calendar", "query")]) from None
    if begin >= end:
        raise ValidationFailed([Detail("/from", "must be before `to`", "query")])
    return begin, end


async def financial_report(session: Session, begin: date, end: date, currency: str | None) -> FinancialReport:
    """Return the report for the days from `begin` up to but excluding `end`, read in one snapshot."""
    bounds = (begin, end, currency)
    async with session.transaction(isolation="repeatable_read", readonly=True):
        await session.execute(statements.NO_PARALLEL_WORKERS)
        daily = [Day(*row) for row in await session.fetch(statements.DAILY, *bounds)]
        top = [TopItem(*row) for row in await session.fetch(statements.TOP_ITEMS, *bounds)]
    return FinancialReport(begin, end, datetime.now(UTC), totals(daily), daily, top)


def totals(daily: Iterable[Day]) -> list[CurrencyTotal]:
    """Return the totals by currency, in alphabetical order."""
    by_currency: dict[Currency, list[Day]] = {}
    for day in daily:
        by_currency.setdefault(day.currency, []).append(day)
    return [
        CurrencyTotal(
            currency,
            sum(day.orders for day in days),
            _sum(currency, (day.sales for day in days)),
            _sum(currency, (day.refunds for day in days)),
            _sum(currency, (day.net for day in days)),
        )
        for currency, days in sorted(by_currency.items())
    ]


def _sum(currency: Currency, amounts: Iterable[str]) -> str:
    return format_amount(sum(map(Decimal, amounts), Decimal(0)), currency)


def as_csv(daily: Iterable[Day]) -> str:
    """Return the days as CSV (RFC 4180)."""
    return encode_csv([COLUMNS, *map(astuple, daily)])
