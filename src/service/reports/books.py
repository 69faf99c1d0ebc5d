"""Close the books: completed hours are added to the rollups of their day, so that reports need not sum them.

An hour is closed when no transaction can still write to it: all that began before its end have ended,
allowing for clock skew. Reports read what is not closed from the ledger, so they are exact however late
this happens. See docs/decisions/0012-closed-books.md.
"""

from datetime import UTC, date, datetime, time, timedelta
from math import ceil

import asyncpg
import structlog

from service.database.clock import MAX_CLOCK_SKEW
from service.database.database import Database
from service.reports import statements
from service.settings import Settings

log = structlog.get_logger()

DAYS_PER_TRANSACTION = 31
VERIFIED_DAYS = 7
"""How many of the latest closed days are compared with the ledger at every run."""


async def close_books(database: Database, _: Settings) -> int:
    """Close the completed hours, and return the number of affected days. Safe to run concurrently."""
    async with database.dedicated_connection() as connection:
        await connection.execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
        until: datetime = await connection.fetchval(statements.CLOSABLE, MAX_CLOCK_SKEW)
        await _reopen(connection, (until - timedelta(days=VERIFIED_DAYS)).date())
        return await close_until(connection, until)


async def close_until(connection: "asyncpg.Connection[asyncpg.Record]", until: datetime) -> int:
    """Roll up everything recorded before `until`, which must be final, and return the number of days."""
    closed = 0
    while days := await _close_days(connection, until):
        closed += days
    return closed


async def _reopen(connection: "asyncpg.Connection[asyncpg.Record]", since: date) -> None:
    """Open a closed day again that has changed: a clock is too far off, or old rows were imported."""
    if reopened := await connection.fetchval(statements.REOPEN, since):
        log.warning("books_reopened", day=str(reopened.date()))


async def _close_days(connection: "asyncpg.Connection[asyncpg.Record]", until: datetime) -> int:
    """Roll up the next days. A day is always rewritten completely, so a repetition has the same result."""
    async with connection.transaction():
        closed_until: datetime = await connection.fetchval(statements.LOCK_BOOKS, until)
        if closed_until >= until:
            return 0
        begin = datetime.combine(closed_until.astimezone(UTC).date(), time(), UTC)
        end = min(until, begin + timedelta(days=DAYS_PER_TRANSACTION))
        for statement in statements.DELETE_ROLLUPS:
            await connection.execute(statement, begin)
        for statement in statements.INSERT_ROLLUPS:
            await connection.execute(statement, begin, end)
        await connection.execute(statements.CLOSE, end)
    return ceil((end - begin) / timedelta(days=1))
