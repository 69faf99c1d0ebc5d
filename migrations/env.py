"""Runs each migration in a transaction, under an advisory lock: replicas may all try at once."""

import asyncio

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from service.models import Base
from service.settings import StartupError

LOCK = 0x6465706F74  # "depot"
LOCK_POLL_SECONDS = 0.1


def migrate(connection: Connection) -> None:
    config = context.config
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=config.version_table_name,  # type: ignore[attr-defined]  # advanced-alchemy's Config
        compare_type=True,
        transaction_per_migration=True,  # which lets a migration build its indexes outside of it
    )
    with context.begin_transaction():
        context.run_migrations()


async def check_encoding(connection: AsyncConnection) -> None:
    """Raise `StartupError` for a database that counts bytes where the contract counts characters."""
    encoding = await connection.scalar(text("show server_encoding"))
    if encoding != "UTF8":
        raise StartupError(f"the database is encoded as {encoding}, and has to be UTF8")
    await connection.commit()


async def lock(connection: AsyncConnection) -> None:
    """Wait for the lock, which lasts until the connection closes.

    It polls, since an index that is built concurrently waits for every statement, this one as well.
    """
    while not await connection.scalar(text("select pg_try_advisory_lock(:key)"), {"key": LOCK}):
        await connection.commit()
        await asyncio.sleep(LOCK_POLL_SECONDS)
    await connection.commit()


async def run() -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=context.config.attributes["connect"],
        poolclass=NullPool,
    )
    try:
        async with engine.connect() as connection:
            await check_encoding(connection)
            await lock(connection)
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


asyncio.run(run())
