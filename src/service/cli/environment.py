"""Shared by all commands: settings, a database connection, and one-line errors."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from service.settings import Settings, StartupError, load_settings, os_reason

if TYPE_CHECKING:
    from service.database.database import Database

T = TypeVar("T")


class CommandError(StartupError):
    """A reason why a command failed after it had started. Its text is one line for the operator."""


def settings_from_environment(log: str) -> Settings:
    """Load the settings. `log` is the command's log format unless `DEPOT_LOG` is set."""
    from service.observability import tracer_factory
    from service.observability.logs import configure_logs

    settings = load_settings({"DEPOT_LOG": log, **os.environ})
    if settings.traces_url is not None and not tracer_factory.is_installed():
        raise StartupError(
            "DEPOT_TRACES_URL is set, but OpenTelemetry is not installed; run: pip install '.[tracing]'"
        )
    if settings.rate_limit_store is not None and find_spec("redis") is None:
        raise StartupError(
            "DEPOT_RATE_LIMIT_STORE is set, but the Redis client is not installed; "
            "run: pip install '.[redis]'"
        )
    configure_logs(settings.log, settings.secrets())
    return settings


def require_database_url(settings: Settings) -> Settings:
    if settings.database_url is None:
        raise StartupError("DATABASE_URL is not set; set it to postgresql://user:password@host/database")
    return settings


@contextmanager
def administrative_settings() -> Iterator[Settings]:
    """Yield the settings with a database: the configured one, or the embedded one of `DEPOT_HOME`.

    Without either, a command of production that lacks `DATABASE_URL` would create a new database.
    """
    from service.cli.dev import database_url

    settings = settings_from_environment("json")
    if settings.database_url is None and not (settings.home / "postgres").exists():
        raise StartupError(
            f"DATABASE_URL is not set, and {settings.home} has no embedded database; "
            "set DATABASE_URL or DEPOT_HOME, or start `depot dev` first"
        )
    with database_url(settings) as url:
        yield replace(settings, database_url=url)


def run_with_database(settings: Settings, work: "Callable[[Database], Awaitable[T]]", *telemetry: Any) -> T:
    """Open the database, run `work` with it, and return the result.

    `telemetry` holds the metrics and the tracer of the database. A failure to connect is one line.
    """
    from service.database.database import Database

    async def main() -> T:
        async with Database(settings, *telemetry).open() as database:
            return await work(database)

    with report_database_errors():
        return asyncio.run(main())


@contextmanager
def report_file_errors(path: Path) -> Iterator[None]:
    """Report an error of the file that the block writes; errors of the database are reported as such."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def report_database_errors() -> Iterator[None]:
    """Report database errors in the block as a one-line `StartupError`."""
    import asyncpg
    from advanced_alchemy.exceptions import RepositoryError
    from sqlalchemy.exc import SQLAlchemyError

    from service.database.errors import DATABASE_ERRORS
    from service.database.orm import root_cause

    try:
        yield
    except (*DATABASE_ERRORS, SQLAlchemyError, RepositoryError) as error:
        cause = root_cause(error)
        if isinstance(cause, asyncpg.UndefinedTableError):
            raise StartupError("the database has no schema yet: run `depot migrate`") from None
        if isinstance(cause, OSError):
            raise StartupError(f"cannot reach the database: {os_reason(cause)}") from None
        first_line = str(cause).partition("\n")[0] or type(cause).__name__
        raise StartupError(f"database error: {first_line}") from None


def check_database(settings: Settings) -> None:
    """Raise `StartupError` if the database rejects this process; only log it if the database is down.

    A serving process starts nevertheless, and is ready as soon as the database is reachable.
    """
    import structlog

    from service.database.errors import OUTAGE_ERRORS

    async def ping(database: "Database") -> None:
        try:
            await database.fetchval("select 1")
        except (*OUTAGE_ERRORS, OSError) as error:
            structlog.get_logger().warning("database_down", cause=str(error) or type(error).__name__)

    run_with_database(settings, ping)
