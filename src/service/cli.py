"""The `depot` command.

Modules are imported where they are used: `--help` should not wait for a database driver.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click
from msgspec.structs import replace
from rich.console import Console

from service.settings import Settings, StartError, load

if TYPE_CHECKING:
    from service.db import Database

T = TypeVar("T")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="depot")
def depot() -> None:
    """Depot: inventory and orders as a REST service. Settings are environment variables; see the README."""


@depot.command()
def dev() -> None:
    """All in one process on this machine: embedded PostgreSQL, migrations, a key, the API, a worker."""
    from service import migrate
    from service.app import create_app
    from service.dev import database_url, development_key, greeting
    from service.server import Server, bind

    settings = settings_from_environment("console")
    if "DEPOT_DRAIN_SECONDS" not in os.environ:
        settings = replace(settings, drain_seconds=0)
    if "DEPOT_WEBHOOK_ALLOW_PRIVATE" not in os.environ:
        settings = replace(settings, webhook_allow_private=True)
    if "DEPOT_JOB_TEST_KINDS" not in os.environ:
        settings = replace(settings, job_test_kinds=True)
    settings.home.mkdir(parents=True, exist_ok=True)
    with bind(settings) as listener, database_url(settings) as url:
        settings = replace(settings, database_url=url, port=listener.getsockname()[1])
        with reachable_database():
            migrate.upgrade(settings)
        key = run(settings, lambda database: development_key(database, settings))
        app = create_app(settings, worker=True)
        Server(app, settings, lambda: click.echo(greeting(settings, key))).run(sockets=[listener])


@depot.command()
@click.option("--host", help="Address to listen on (HOST).")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on (PORT).")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
def serve(host: str | None, port: int | None, workers: int) -> None:
    """The API, for production. Never migrates by itself."""
    from service import server

    settings = required_database(settings_from_environment("json"))
    settings = replace(settings, host=host or settings.host, port=settings.port if port is None else port)
    run(settings, ping)
    with server.bind(settings) as listener:
        if workers > 1:
            server.serve_many(settings, listener, workers)
        else:
            server.serve(settings, listener)


@depot.command()
@click.option("--concurrency", type=click.IntRange(1, 1000), help="Jobs at once (DEPOT_WORKER_CONCURRENCY).")
def worker(concurrency: int | None) -> None:
    """Queued jobs, webhooks and upkeep, for production: as many workers as you like, on any machines."""
    from service.metrics import show
    from service.telemetry.meters import Meters
    from service.telemetry.traces import traces
    from service.worker import work

    settings = required_database(settings_from_environment("json"))
    settings = replace(settings, worker_concurrency=concurrency or settings.worker_concurrency)
    meters, told = Meters(), traces(settings.traces_url, settings.traces_ratio)
    show(meters, settings)
    run(settings, lambda database: work(settings, database, meters, told), meters, told)


@depot.command()
@click.argument("revision", default="head")
def migrate(revision: str) -> None:
    """Bring the database's schema up to date (or to REVISION). Replicas may all run this at once."""
    from alembic.util import CommandError

    from service import migrate as migrations

    settings = required_database(settings_from_environment("json"))
    with reachable_database():
        try:
            migrations.upgrade(settings, revision)
        except CommandError as error:
            raise click.ClickException(str(error)) from None


@depot.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from service.app import create_app
    from service.docs import encoded

    app = create_app(Settings(database_url="postgresql://unused"))
    sys.stdout.buffer.write(encoded(app) + b"\n")


@depot.command()
@click.option("--url", help="The API.  [default: at HOST and PORT]")
@click.option("--key", help="An API key.  [default: what is in $DEPOT_HOME/api-key]")
@click.option("--event", "events", multiple=True, metavar="TYPE", help="item.updated, …  [default: all]")
def listen(url: str | None, key: str | None, events: tuple[str, ...]) -> None:
    """Print the events webhooks are told of, as they arrive at a receiver on this machine.

    The service has to allow private targets, as `depot dev` does.
    """
    from typing import get_args

    from service.dev import key_file
    from service.events.journal import EventType
    from service.listen import listen as listening

    settings = settings_from_environment("console")
    if key is None and not key_file(settings).exists():
        raise StartError(f"there is no {key_file(settings)}: name a --key")
    work = listening(
        url or f"http://{settings.host}:{settings.port}",
        key or key_file(settings).read_text().strip(),
        events or get_args(EventType),
        click.echo,
    )
    asyncio.run(work)


@depot.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.option("--name", required=True, help="Whose key it is, in up to 100 characters.")
@click.option("--scope", "scopes", required=True, multiple=True, help="items:read, orders:write, …, admin.")
@click.option("--expires-in-days", type=click.IntRange(min=1), help="Default: never.")
def keys_create(name: str, scopes: tuple[str, ...], expires_in_days: int | None) -> None:
    """Make a key and print it, alone, on stdout. It is shown this once."""
    from service.auth.store import create_key

    settings = required_database(settings_from_environment("json"))
    expires_in = None if expires_in_days is None else timedelta(days=expires_in_days)

    async def create(database: "Database") -> str:
        async with database.sessions() as session, session.begin():
            return await create_key(
                session, name=name, scopes=list(scopes), secret=settings.secret, expires_in=expires_in
            )

    try:
        click.echo(run(settings, create))
    except ValueError as error:
        raise click.ClickException(str(error)) from None


@keys.command("list")
def keys_list() -> None:
    """List the keys: id, name, scopes, state."""
    from rich.table import Table

    from service.auth.store import list_keys

    async def read(database: "Database") -> list[tuple[str, ...]]:
        async with database.sessions() as session:
            return await list_keys(session)

    table = Table("id", "name", "scopes", "created", "state")
    for row in run(required_database(settings_from_environment("json")), read):
        table.add_row(*row)
    Console().print(table)


@keys.command("revoke")
@click.argument("identity", metavar="ID")
def keys_revoke(identity: str) -> None:
    """Revoke a key. It is refused everywhere within a second."""
    from service.auth.store import revoke_key

    async def revoke(database: "Database") -> bool:
        async with database.sessions() as session, session.begin():
            return await revoke_key(session, identity)

    if not run(required_database(settings_from_environment("json")), revoke):
        raise click.ClickException(f"there is no key {identity}")


@depot.group()
def audit() -> None:
    """The audit trail."""


@audit.command("verify")
@click.option("--anchor", metavar="N:HASH", help="A head printed earlier: finds out if the end was cut off.")
def audit_verify(anchor: str | None) -> None:
    """Find events that were edited, deleted, reordered or slipped in. Exit status 1 if there are any."""
    from service.audit.chain import Head
    from service.audit.verify import verify

    settings = required_database(settings_from_environment("json"))
    try:
        known = None if anchor is None else Head.parse(anchor)
    except ValueError as error:
        raise click.ClickException(f"--anchor: {error}") from None
    found = run(settings, lambda database: verify(database, settings, known))
    for finding in found.findings:
        click.echo(finding)
    click.echo(f"{found.head.position} sealed events, {found.awaiting} not sealed yet, head {found.head}")
    if found.findings:
        raise click.ClickException(f"the journal was tampered with, in {len(found.findings)} places")


@depot.command()
@click.option("--items", type=click.IntRange(1, 10_000_000), default=1000, show_default=True)
@click.option("--orders", type=click.IntRange(0, 100_000_000), default=20_000, show_default=True)
@click.option(
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How old the shop is."
)
def demo(items: int, orders: int, days: int) -> None:
    """Fill the database with a shop that has a past: items, orders, cancellations, deliveries."""
    from rich.progress import Progress

    from service.demo.fill import Demo, InTheWay, fill
    from service.dev import database_url

    settings, totals = settings_from_environment("json"), {"items": items, "orders": orders}
    with database_url(settings) as url, Progress(console=Console(stderr=True)) as progress:
        bars = {name: progress.add_task(name, total=total) for name, total in totals.items()}

        def on_progress(name: str, count: int) -> None:
            progress.update(bars[name], completed=count)

        settings = replace(settings, database_url=url)
        size = Demo(items, orders, days)
        try:
            run(settings, lambda database: fill(database, settings, size, on_progress))
        except InTheWay as error:
            raise click.ClickException(str(error)) from None


@depot.command()
def doctor() -> None:
    """Compare all that is stored: stock, orders, ledger, sums, events, blobs. Exit status 1 if it differs."""
    from service.dev import database_url
    from service.doctor.examine import examine

    settings = settings_from_environment("json")
    screen = Console(stderr=True)

    async def look(database: "Database") -> int:
        wrong = 0
        async for kind, findings in examine(database, settings):
            screen.print("[red]✗" if findings else "[green]✓", kind, highlight=False)
            for finding in findings:
                click.echo(finding)
            wrong += len(findings)
        return wrong

    with database_url(settings) as url:
        wrong = run(replace(settings, database_url=url), look)
    if wrong:
        raise click.ClickException(f"{wrong} differences")


@depot.group()
def items() -> None:
    """Items."""


@items.command("import")
@click.argument("path", metavar="FILE.csv", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--skip-bad", is_flag=True, help="Import the good rows although there are bad ones.")
def items_import(path: Path, skip_bad: bool) -> None:
    """Create items from a CSV, and update those whose SKU exists: all rows or, if any is bad, none."""
    from rich.progress import Progress

    from service.dev import database_url
    from service.events.journal import CLI
    from service.items.importer import BadRows, Report, import_items
    from service.items.rows import ENCODING, BadFile

    settings = settings_from_environment("json")
    screen = Console(stderr=True)
    with (
        database_url(settings) as url,
        path.open(encoding=ENCODING, newline="") as text,
        Progress(console=screen) as progress,
    ):
        bar = progress.add_task(path.name, total=path.stat().st_size)

        async def on_progress(bytes_read: int) -> None:
            progress.update(bar, completed=bytes_read)

        async def load_file(database: "Database") -> Report:
            async with database.transaction() as connection:
                return await import_items(connection, text, CLI, skip_bad=skip_bad, on_progress=on_progress)

        refusal = None
        try:
            report = run(replace(settings, database_url=url), load_file)
        except BadFile as error:
            raise click.ClickException(str(error)) from None
        except BadRows as error:
            report, refusal = error.report, f"{error} (--skip-bad imports the others)"
    for row in report.bad_rows:
        problems = f"line {row.line}: {'; '.join(row.problems)}"
        screen.print(problems, style="red", highlight=False, markup=False, soft_wrap=True)
    if report.bad > len(report.bad_rows):
        screen.print(f"and {report.bad - len(report.bad_rows)} more", style="red", highlight=False)
    if refusal:
        raise click.ClickException(refusal)
    click.echo(f"{report.created} created, {report.updated} updated, {report.unchanged} unchanged, "
               f"{report.bad} skipped")  # fmt: skip


def settings_from_environment(log: str) -> Settings:
    """The settings; `log` is the style of logs this command has unless DEPOT_LOG says otherwise."""
    from service.telemetry import traces
    from service.telemetry.logs import configure_logs

    settings = load({"DEPOT_LOG": log, **os.environ})
    if settings.traces_url is not None and not traces.installed():
        raise StartError(
            "DEPOT_TRACES_URL is set, and OpenTelemetry is not installed (pip install 'depot[tracing]')"
        )
    configure_logs(settings.log, settings.secrets())
    return settings


def required_database(settings: Settings) -> Settings:
    if settings.database_url is None:
        raise StartError("DATABASE_URL is not set")
    return settings


def run(settings: Settings, work: "Callable[[Database], Awaitable[T]]", *sight: Any) -> T:
    """Do some work with an open database, of which `sight` is told. Failing to reach it is one clear line."""
    from service.db import Database

    async def main() -> T:
        async with Database(settings, *sight).open() as database:
            return await work(database)

    with reachable_database():
        return asyncio.run(main())


@contextmanager
def reachable_database() -> Iterator[None]:
    """What goes wrong between here and the database is one clear line."""
    import asyncpg
    from advanced_alchemy.exceptions import RepositoryError
    from sqlalchemy.exc import SQLAlchemyError

    from service.db import root_cause

    failures = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
    try:
        yield
    except (*failures, SQLAlchemyError, RepositoryError) as error:
        cause = root_cause(error)
        if isinstance(cause, asyncpg.UndefinedTableError):
            raise StartError("the database has no schema yet: run `depot migrate`") from None
        first_line = str(cause).partition("\n")[0] or type(cause).__name__
        raise StartError(f"the database cannot be used: {first_line}") from None


async def ping(database: "Database") -> None:
    await database.fetchval("select 1")


def main() -> None:
    """Entry point: what stops the start is one line and a non-zero exit."""
    try:
        depot()
    except StartError as error:
        Console(stderr=True).print(
            f"depot: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(1)
