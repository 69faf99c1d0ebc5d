"""Runs the migrations in one transaction, under an advisory lock: replicas may all try at once."""

import asyncio

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.models import Base
from service.settings import StartupError

LOCK = 0x6465706F74  # "depot"


def migrate(connection: Connection) -> None:
    """Raises `StartupError` for a database that counts bytes where the contract counts characters."""
    config = context.config
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=config.version_table_name,  # type: ignore[attr-defined]  # advanced-alchemy's Config
        compare_type=True,
    )
    with context.begin_transaction():
        encoding = connection.scalar(text("show server_encoding"))
        if encoding != "UTF8":
            raise StartupError(f"the database is encoded as {encoding}, and has to be UTF8")
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": LOCK})
        context.run_migrations()


async def run() -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=context.config.attributes["connect"],
        poolclass=NullPool,
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


asyncio.run(run())
