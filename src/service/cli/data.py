"""Commands for stored data: import, demo, doctor, audit."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@click.group()
def audit() -> None:
    """Work with the audit trail."""


@audit.command("verify")
@click.option(
    "--anchor",
    metavar="N:HASH",
    help="Head printed by an earlier run; detects a chain whose end was cut off.",
)
def audit_verify(anchor: str | None) -> None:
    """Find events that were edited, deleted, reordered or slipped in. Exit status 1 if there are any."""
    from service.audit.state import Head
    from service.audit.verify import verify

    try:
        known = None if anchor is None else Head.parse(anchor)
    except ValueError as error:
        raise CommandError(f"--anchor: {error}") from None
    with administrative_settings() as settings:
        found = run_with_database(settings, lambda database: verify(database, settings, known))
    for finding in found.findings:
        click.echo(finding)
    click.echo(f"{found.head.position} sealed events, {found.unsealed} not sealed yet, head {found.head}")
    if found.findings:
        raise CommandError(f"the journal was tampered with, in {len(found.findings)} places")


@audit.command("export")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
def audit_export(path: Path) -> None:
    """Write the whole audit trail to a file: one JSON object per line, oldest first, each with its seal.

    An existing file is replaced once the export is complete.
    """
    from service.audit.export import export_lines

    async def export(database: "Database") -> int:
        count = 0
        with _replaced_file(path) as write:
            async for line in export_lines(database):
                write(line)
                count += 1
        return count

    with administrative_settings() as settings:
        count = run_with_database(settings, export)
    click.echo(f"{count} events exported")


@contextmanager
def _replaced_file(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield the `write` of a file that takes the place of `path` when the block ends without an error."""
    partial = path.with_name(f"{path.name}.partial")
    with _file_errors(path):
        file = partial.open("wb")

    def write(line: bytes) -> None:
        with _file_errors(path):
            file.write(line)

    try:
        with file:
            yield write
            with _file_errors(path):
                file.flush()
                os.fsync(file.fileno())
        with _file_errors(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Report an error of the file in the block; errors of the database are reported as such."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


@audit.command("accept")
def audit_accept() -> None:
    """Authenticate the present chain with DEPOT_SECRET, and print its head.

    Needed once after an upgrade from 0.1, after a change of DEPOT_SECRET without DEPOT_SECRET_PREVIOUS, or if
    the first worker starts a day after the first event. Run `depot audit verify --anchor` first; restart the
    workers afterwards.
    """
    from service.audit.chain import accept

    with administrative_settings() as settings:
        click.echo(run_with_database(settings, lambda database: accept(database, settings)))


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
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Age of the shop in days."
)
@click.option(
    "--yes",
    is_flag=True,
    help="Load into a database that is not the embedded one, or that has items or orders.",
)
def demo(items: int, orders: int, days: int, yes: bool) -> None:
    """Load a shop with a history into an empty embedded database: items, orders, cancellations and
    deliveries."""
    from rich.progress import Progress

    from service.cli.demo.fill import DemoConflict, DemoSize, fill

    if settings_from_environment("json").database_url is not None and not yes:
        raise CommandError("DATABASE_URL is set; add --yes to load demo data into that database")
    totals = {"items": items, "orders": orders}
    with administrative_settings() as settings, Progress(console=Console(stderr=True)) as progress:
        bars = {name: progress.add_task(name, total=total) for name, total in totals.items()}

        def on_progress(name: str, count: int) -> None:
            progress.update(bars[name], completed=count)

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


COMMANDS = (audit, demo, doctor, items)
