"""Commands that create, list and revoke API keys."""

from datetime import timedelta
from typing import TYPE_CHECKING

import rich_click as click
from rich.console import Console

from service.cli.environment import administrative_settings, run_with_database

if TYPE_CHECKING:
    from service.database.database import Database


@click.group()
def keys() -> None:
    """Manage API keys."""


@keys.command("create")
@click.option("--name", required=True, help="Name of the key or its owner (1 to 100 characters).")
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    help="Scope, such as items:read, orders:write or admin; repeatable.",
)
@click.option(
    "--expires-in-days", type=click.IntRange(min=1), help="Days until the key expires.  [default: never]"
)
def keys_create(name: str, scopes: tuple[str, ...], expires_in_days: int | None) -> None:
    """Create an API key and print it to stdout. It cannot be shown again."""
    from service.auth.store import create_key

    expires_in = None if expires_in_days is None else timedelta(days=expires_in_days)

    async def create(database: "Database") -> str:
        async with database.orm_session() as session:
            return await create_key(
                session, name=name, scopes=list(scopes), secret=settings.secret, expires_in=expires_in
            )

    with administrative_settings() as settings:
        try:
            click.echo(run_with_database(settings, create))
        except ValueError as error:
            raise click.ClickException(str(error)) from None


@keys.command("list")
def keys_list() -> None:
    """List API keys with id, name, scopes, creation time and state. Piped output has one tab-separated line
    per key."""
    from rich.table import Column, Table

    from service.auth.store import list_keys

    async def read(database: "Database") -> list[tuple[str, ...]]:
        async with database.orm_session() as session:
            return await list_keys(session)

    console = Console()
    with administrative_settings() as settings:
        rows = run_with_database(settings, read)
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
    """Revoke a key. All processes reject it within a second."""
    from service.auth.store import revoke_key

    async def revoke(database: "Database") -> bool:
        async with database.orm_session() as session:
            return await revoke_key(session, identity)

    with administrative_settings() as settings:
        is_known = run_with_database(settings, revoke)
    if not is_known:
        raise click.ClickException(f"no API key has the id {identity}; run `depot keys list`")
