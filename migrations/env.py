"""Runs each migration in a transaction, under an advisory lock: replicas may all try at once.

A migration that waits for the lock of a table blocks everybody who comes later. So it waits only briefly,
then lets the others work, and starts again.
"""

import asyncio

import structlog
from alembic import context
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from service.database.migrate import LOCK_ATTEMPTS_MAX, LOCK_PAUSE_SECONDS, LOCK_TIMEOUT_SECONDS
from service.models import Base
from service.settings import StartupError

log = structlog.get_logger()

LOCK_NOT_AVAILABLE = "55P03"
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


async def migrate_between_locks(connection: AsyncConnection) -> None:
    """Migrate, and try again while other transactions hold the tables. Raises `StartupError` at last.

    The timeout lasts for a transaction, so it leaves out what is built concurrently, which blocks no one.
    """
    event.listen(connection.sync_connection, "begin", limit_lock_wait)
    for attempt in range(1, LOCK_ATTEMPTS_MAX + 1):
        try:
            return await connection.run_sync(migrate)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
        await connection.rollback()
        log.warning("migration_delayed", attempt=attempt, retry_in_seconds=LOCK_PAUSE_SECONDS)
        await asyncio.sleep(LOCK_PAUSE_SECONDS)
    raise StartupError(
        "a long transaction holds a table that a migration must change; end it (pg_stat_activity lists it), "
        "then migrate again"
    )


def limit_lock_wait(connection: Connection) -> None:
    connection.exec_driver_sql(f"set local lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")


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
            await migrate_between_locks(connection)
    finally:
        await engine.dispose()


asyncio.run(run())
