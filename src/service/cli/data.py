"""Commands for stored data: import, demo, doctor."""

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from rich.console import Console

from service.cli.environment import (
    CommandError,
    administrative_settings,
    run_with_database,
    settings_from_environment,
)

if TYPE_CHECKING:
    from service.database.database import Database
    from service.items.importer import ImportReport


@click.command()
@click.option(
    "--items", type=click.IntRange(1, 10_000_000), default=1000, show_default=True, help="Items to create."
)
@click.option(
    "--orders",
    type=click.IntRange(0, 100_000_000),
    default=20_000,
    show_default=True,
    help="Orders to place.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="Days over which the orders are spread.",
)
@click.option(
    "--yes",
    is_flag=True,
    help="Load into a database that is not the embedded one, or that has items or orders.",
)
def demo(items: int, orders: int, days: int, yes: bool) -> None:
    """Load generated items and orders with a history into an empty embedded database."""
    from rich.progress import Progress

    from service.cli.demo.fill import DemoConflict, DemoSize, fill

    if settings_from_environment("json").database_url is not None and not yes:
        raise CommandError("DATABASE_URL is set; add --yes to load demo data into that database")
    totals = {"items": items, "orders": orders}
    with administrative_settings() as settings, Progress(console=Console(stderr=True)) as progress:
        bars = {name: progress.add_task(name, total=total, visible=False) for name, total in totals.items()}

        def on_progress(name: str, count: int) -> None:
            progress.update(bars[name], completed=count, visible=True)

        size = DemoSize(items, orders, days)
        try:
            run_with_database(
                settings, lambda database: fill(database, settings, size, on_progress, only_if_empty=not yes)
            )
        except DemoConflict as error:
            raise CommandError(str(error)) from None


@click.command()
def doctor() -> None:
    """Check that all stored data is consistent: stock, orders, ledger, rollups, events, audit chain, blobs.

    Violations go to stdout, one per line; exit status 1 if there are any.
    """
    from service.cli.doctor.run import run_checks

    console = Console(stderr=True, highlight=False)

    async def run_all_checks(database: "Database") -> list[int]:
        counts = []
        async for check, findings in run_checks(database, settings):
            console.print("[red]✗" if findings else "[green]✓", check)
            for finding in findings:
                click.echo(finding)
            counts.append(len(findings))
        return counts

    with administrative_settings() as settings:
        counts = run_with_database(settings, run_all_checks)
    failed = sum(count > 0 for count in counts)
    if failed:
        raise CommandError(f"{failed} of {len(counts)} checks failed, {sum(counts)} violations listed")
    console.print(f"{len(counts)} checks passed")


@click.group()
def items() -> None:
    """Manage items."""


@items.command("import")
@click.argument("path", metavar="FILE.csv", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--skip-bad", is_flag=True, help="Import the valid rows and skip the invalid ones.")
def items_import(path: Path, skip_bad: bool) -> None:
    """Import items from a CSV file. New SKUs are created and existing ones updated; if a row is invalid,
    nothing is imported."""
    from rich.progress import Progress

    from service.events.journal import CLI
    from service.items.csv_rows import ENCODING, InvalidFile
    from service.items.importer import InvalidRows, import_items

    stderr_console = Console(stderr=True)
    with (
        administrative_settings() as settings,
        path.open(encoding=ENCODING, newline="") as text,
        Progress(console=stderr_console) as progress,
    ):
        bar = progress.add_task(path.name, total=path.stat().st_size)

        async def on_progress(bytes_read: int) -> None:
            progress.update(bar, completed=bytes_read)

        async def load_file(database: "Database") -> "ImportReport":
            async with database.session() as session, session.transaction():
                return await import_items(
                    await session.connection(),
                    text,
                    CLI,
                    currency=settings.currency,
                    skip_bad=skip_bad,
                    on_progress=on_progress,
                )

        refusal = None
        try:
            report = run_with_database(settings, load_file)
        except InvalidFile as error:
            raise CommandError(str(error)) from None
        except InvalidRows as error:
            report, refusal = error.report, f"{error}; use --skip-bad to import the valid rows"
    _show_invalid_rows(report, stderr_console)
    if refusal:
        raise CommandError(refusal)
    click.echo(f"{report.created} created, {report.updated} updated, {report.unchanged} unchanged, "
               f"{report.bad} skipped")  # fmt: skip


def _show_invalid_rows(report: "ImportReport", stderr_console: Console) -> None:
    for row in report.bad_rows:
        problems = f"line {row.line}: {'; '.join(row.problems)}"
        stderr_console.print(problems, style="red", highlight=False, markup=False, soft_wrap=True)
    if report.bad > len(report.bad_rows):
        more = f"… and {report.bad - len(report.bad_rows)} more invalid rows"
        stderr_console.print(more, style="red", highlight=False)


COMMANDS = (demo, doctor, items)
