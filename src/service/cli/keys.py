"""Commands that create, rotate, list and revoke API keys."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import rich_click as click
from rich.console import Console

from service.cli.environment import CommandError, administrative_settings, run_with_database

if TYPE_CHECKING:
    from service.database.database import Database

OVERLAP_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType[timedelta]):
    """A duration such as `30m`, `24h` or `7d`, at most a year."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        match = re.fullmatch(r"([0-9]{1,8})([smhd])", str(value))
        duration = match and timedelta(**{OVERLAP_UNITS[match[2]]: int(match[1])})
        if duration is None or duration > timedelta(days=366):
            self.fail("must be a duration such as 30m, 24h or 7d, at most 366d", param, ctx)
        return duration


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
@click.option(
    "--rate-limit",
    metavar="RATE",
    help="Requests that the key may make, such as 600/minute.  [default: DEPOT_RATE_LIMIT]",
)
def keys_create(
    name: str, scopes: tuple[str, ...], expires_in_days: int | None, rate_limit: str | None
) -> None:
    """Create an API key and print it to stdout. It cannot be shown again."""
    from service.auth.store import create_key

    expires_in = None if expires_in_days is None else timedelta(days=expires_in_days)

    async def create(database: "Database") -> str:
        async with database.orm_session() as session:
            return await create_key(
                session,
                name=name,
                scopes=list(scopes),
                secret=settings.secret,
                expires_in=expires_in,
                rate_limit=rate_limit,
            )

    with administrative_settings() as settings, _value_errors(click.UsageError):
        click.echo(run_with_database(settings, create))


@keys.command("rotate")
@click.argument("identity", metavar="ID")
@click.option(
    "--overlap",
    type=Duration(),
    default="24h",
    show_default=True,
    help="Time for which the old key still works, such as 30m, 24h or 7d.",
)
def keys_rotate(identity: str, overlap: timedelta) -> None:
    """Replace a key and print the new one to stdout. It has the name, scopes, lifetime and rate limit of the
    old one, which works until the overlap ends."""
    from service.auth.store import rotate_key

    async def rotate(database: "Database") -> str | None:
        async with database.orm_session() as session:
            return await rotate_key(session, identity, secret=settings.secret, overlap=overlap)

    with administrative_settings() as settings, _value_errors(CommandError):
        key = run_with_database(settings, rotate)
    if key is None:
        raise _unknown_key(identity)
    click.echo(key)


@keys.command("list")
def keys_list() -> None:
    """List API keys with id, name, scopes, creation time, state, last use (to the minute) and rate limit.
    Piped output has one tab-separated line per key."""
    from rich.table import Column, Table

    from service.auth.store import list_keys

    async def read(database: "Database") -> list[tuple[str, ...]]:
        async with database.orm_session() as session:
            return await list_keys(session)

    console = Console()
    with administrative_settings() as settings:
        rows = run_with_database(settings, read)
    if console.is_terminal:
        titles = ("id", "name", "scopes", "created", "state", "last used", "rate limit")
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
        raise _unknown_key(identity)


def _unknown_key(identity: str) -> CommandError:
    return CommandError(f"no API key has the id {identity}; run `depot keys list`")


@contextmanager
def _value_errors(type_: Callable[[str], Exception]) -> Iterator[None]:
    """Report a `ValueError` in the block as an error of this type."""
    try:
        yield
    except ValueError as error:
        raise type_(str(error)) from None
