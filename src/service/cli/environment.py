"""What commands share: the settings, a database that can be reached, and errors of one line."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from service.settings import Settings, StartupError, load_settings

if TYPE_CHECKING:
    from service.database.database import Database

T = TypeVar("T")


def settings_from_environment(log: str) -> Settings:
    """The settings; `log` is the style of logs this command has unless DEPOT_LOG says otherwise."""
    from service.observability import tracer_factory
    from service.observability.logs import configure_logs

    settings = load_settings({"DEPOT_LOG": log, **os.environ})
    if settings.traces_url is not None and not tracer_factory.is_installed():
        raise StartupError(
            "DEPOT_TRACES_URL is set, and OpenTelemetry is not installed (pip install 'depot[tracing]')"
        )
    configure_logs(settings.log, settings.secrets())
    return settings


def require_database_url(settings: Settings) -> Settings:
    if settings.database_url is None:
        raise StartupError("DATABASE_URL is not set")
    return settings


def run(settings: Settings, work: "Callable[[Database], Awaitable[T]]", *sight: Any) -> T:
    """Do some work with an open database, of which `sight` is told. Failing to reach it is one clear line."""
    from service.database.database import Database

    async def main() -> T:
        async with Database(settings, *sight).open() as database:
            return await work(database)

    with report_database_errors():
        return asyncio.run(main())


@contextmanager
def report_database_errors() -> Iterator[None]:
    """What goes wrong between here and the database is one clear line."""
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
        first_line = str(cause).partition("\n")[0] or type(cause).__name__
        raise StartupError(f"the database cannot be used: {first_line}") from None


async def ping(database: "Database") -> None:
    await database.fetchval("select 1")
