"""API keys are made, listed and revoked here."""

from datetime import timedelta
from typing import TYPE_CHECKING

import rich_click as click
from rich.console import Console

from service.cli.environment import require_database_url, run, settings_from_environment

if TYPE_CHECKING:
    from service.database.database import Database


@click.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.option("--name", required=True, help="Whose key it is, in up to 100 characters.")
@click.option("--scope", "scopes", required=True, multiple=True, help="items:read, orders:write, …, admin.")
@click.option("--expires-in-days", type=click.IntRange(min=1), help="Default: never.")
def keys_create(name: str, scopes: tuple[str, ...], expires_in_days: int | None) -> None:
    """Make a key and print it, alone, on stdout. It is shown this once."""
    from service.auth.store import create_key

    settings = require_database_url(settings_from_environment("json"))
    expires_in = None if expires_in_days is None else timedelta(days=expires_in_days)

    async def create(database: "Database") -> str:
        async with database.orm_session() as session:
            return await create_key(
                session, name=name, scopes=list(scopes), secret=settings.secret, expires_in=expires_in
            )

    try:
        click.echo(run(settings, create))
    except ValueError as error:
        raise click.ClickException(str(error)) from None


@keys.command("list")
def keys_list() -> None:
    """List the keys: id, name, scopes, when made, state. In a pipe: a line each, with tabs between."""
    from rich.table import Column, Table

    from service.auth.store import list_keys

    async def read(database: "Database") -> list[tuple[str, ...]]:
        async with database.orm_session() as session:
            return await list_keys(session)

    console = Console()
    rows = run(require_database_url(settings_from_environment("json")), read)
    if console.is_terminal:
        titles = ("id", "name", "scopes", "created", "state")
        table = Table(*(Column(title, overflow="fold") for title in titles))
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        for row in rows:
            click.echo("\t".join(row))


@keys.command("revoke")
@click.argument("identity", metavar="ID")
def keys_revoke(identity: str) -> None:
    """Revoke a key. It is refused everywhere within a second."""
    from service.auth.store import revoke_key

    async def revoke(database: "Database") -> bool:
        async with database.orm_session() as session:
            return await revoke_key(session, identity)

    if not run(require_database_url(settings_from_environment("json")), revoke):
        raise click.ClickException(f"there is no key {identity}")
