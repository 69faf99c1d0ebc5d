"""`depot report`: the financial report as a table, tab-separated lines, CSV or an HTML page."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, get_args

import rich_click as click
from rich.console import Console

from service.cli.environment import (
    CommandError,
    administrative_settings,
    report_file_errors,
    run_with_database,
)

if TYPE_CHECKING:
    from service.database.database import Database
    from service.reports.schemas import FinancialReport


class Date(click.ParamType[date]):
    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail("must be a date such as 2026-11-23", param, ctx)


@click.command()
@click.option("--from", "begin", type=Date(), help="First day (UTC).  [default: 30 days before --to]")
@click.option("--to", "end", type=Date(), help="Day after the last day (UTC).  [default: tomorrow]")
@click.option("--currency", metavar="CODE", help="Only this currency, such as USD.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the days as CSV.")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML page to this file."
)
@click.option("--open", "open_page", is_flag=True, help="Open the HTML page in a browser.")
def report(
    begin: date | None,
    end: date | None,
    currency: str | None,
    as_csv: bool,
    html: Path | None,
    open_page: bool,
) -> None:
    """Print the financial report: sales and refunds by day, totals, and the best-selling items. Piped output
    has one tab-separated line per day and currency."""
    if as_csv and (html or open_page):
        raise click.UsageError("--csv cannot be combined with --html or --open")
    result = _read(begin, end, currency)
    if html or open_page:
        _write_page(
            result, html or Path(mkdtemp(prefix="depot-report-")) / "report.html", open_page=open_page
        )
    elif as_csv:
        from service.reports.financial import as_csv as to_csv

        click.echo(to_csv(result.daily), nl=False)
    else:
        _print(result, Console())


def _read(begin: date | None, end: date | None, currency: str | None) -> "FinancialReport":
    from service.errors import ValidationFailed
    from service.reports.financial import financial_report, period
    from service.values import Currency

    if currency is not None and currency not in get_args(Currency):
        raise click.BadParameter("must be an ISO 4217 currency code, such as USD", param_hint="--currency")
    try:
        first, after = period(begin, end, datetime.now(UTC).date())
    except ValidationFailed as fault:
        (detail,) = fault.details
        raise click.BadParameter(detail.message, param_hint=f"--{detail.field[1:]}") from None

    async def read(database: "Database") -> "FinancialReport":
        async with database.session() as session:
            result, _ = await session.read_from_standby(
                lambda reader: financial_report(reader, first, after, currency)
            )
            return result

    with administrative_settings() as settings:
        return run_with_database(settings, read)


def _write_page(result: "FinancialReport", path: Path, *, open_page: bool) -> None:
    from service.reports.html import render_page

    with report_file_errors(path):
        path.write_text(render_page(result), encoding="utf-8")
    click.echo(path)
    if open_page and click.launch(str(path.resolve())):
        raise CommandError(f"no browser could be started; open {path} yourself")


def _print(result: "FinancialReport", console: Console) -> None:
    days = [
        (str(day.date), day.currency, str(day.orders), day.sales, day.refunds, day.net)
        for day in result.daily
    ]
    if not console.is_terminal:
        for day in days:
            click.echo("\t".join(day))
        return
    totals = [("total", t.currency, str(t.orders), t.sales, t.refunds, t.net) for t in result.totals]
    top = [(item.currency, item.sku, str(item.quantity), item.amount) for item in result.top_items]
    console.print(f"Financial report from {result.from_} to {result.to} (exclusive), days in UTC")
    _print_table(console, ("date", "currency", "orders", "sales", "refunds", "net"), days, totals)
    _print_table(console, ("currency", "SKU", "quantity", "amount"), top)


def _print_table(
    console: Console, titles: tuple[str, ...], *sections: Sequence[tuple[str, ...]], text_columns: int = 2
) -> None:
    from rich.table import Column, Table

    table = Table(
        *(Column(title, justify="left" if no < text_columns else "right") for no, title in enumerate(titles))
    )
    for rows in sections:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    console.print(table)
