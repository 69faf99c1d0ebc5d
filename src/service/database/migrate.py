"""Migrations: bring the database schema to a revision, with advanced-alchemy's Alembic commands."""

import asyncio
from pathlib import Path

import asyncpg
from advanced_alchemy.alembic.commands import AlembicCommands
from advanced_alchemy.config import AlembicAsyncConfig, SQLAlchemyAsyncConfig
from alembic.util import CommandError

from service.database.database import READ_SCHEMA_VERSION, SCHEMA, VERSION_TABLE
from service.database.servers import ServerList
from service.database.url import direct_dsn
from service.settings import Settings

LOCK_TIMEOUT_SECONDS = 1.0
"""Time that a migration waits for a table's lock. Others that need the table wait behind it."""
LOCK_PAUSE_SECONDS = 2.0
"""Time for which other transactions can use the table before the migration tries again."""
LOCK_ATTEMPTS_MAX = 30

PACKAGED = Path(__file__).parents[1] / "migrations"
"""Location in an installed wheel; in a checkout the migrations are at the top level."""


def commands(settings: Settings) -> AlembicCommands:
    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await ServerList(direct_dsn(settings)).connect(settings.connect_timeout_seconds)

    config = SQLAlchemyAsyncConfig(
        connection_string="postgresql+asyncpg://",
        alembic_config=AlembicAsyncConfig(
            script_location=str(migrations_dir()).replace("%", "%%"),  # the configuration interpolates
            version_table_name=VERSION_TABLE,
        ),
    )
    alembic = AlembicCommands(sqlalchemy_config=config)
    alembic.config.attributes["connect"] = connect
    return alembic


class UnknownRevision(Exception):
    """This version has no such revision."""


def upgrade(settings: Settings, revision: str = "head") -> None:
    """Migrate the schema to a revision. Raises `UnknownRevision`.

    A schema that is newer than this version stays, so that a deployment can be rolled back.
    """
    if (current_revision(settings) or "") > SCHEMA:
        return
    try:
        commands(settings).upgrade(revision=revision)
    except CommandError:
        raise UnknownRevision from None


def current_revision(settings: Settings) -> str | None:
    """Return the schema's revision, or None if the database has no schema."""
    return asyncio.run(_read_revision(settings))


async def _read_revision(settings: Settings) -> str | None:
    connection = await ServerList(direct_dsn(settings)).connect(settings.connect_timeout_seconds)
    try:
        revision: str | None = await connection.fetchval(READ_SCHEMA_VERSION)
    except asyncpg.UndefinedTableError:
        return None
    else:
        return revision
    finally:
        await connection.close()


def migrations_dir() -> Path:
    return PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[3] / "migrations"
