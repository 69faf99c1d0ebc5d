"""Closing the books: hours that are over are added up into the sums of their day, so that reports need not.

An hour is closed when nothing is left that could still book on it: every transaction that began before its
end has ended, with room for clocks that are apart. What is not closed reports read from the ledger, so they
are exact however late that is. See docs/decisions/0012-closed-books.md.
"""

from datetime import UTC, date, datetime, time, timedelta

import asyncpg
import structlog

from service.database.database import MAX_CLOCK_SKEW, Database
from service.reports import statements
from service.settings import Settings

log = structlog.get_logger()

DAYS_AT_ONCE = 31
"""In one transaction, should many be open."""
VERIFIED_DAYS = 7


async def close_books(database: Database, _: Settings) -> int:
    """Close the hours that are over; returns how many days that concerned. All processes may try at once."""
    async with database.dedicated_connection() as connection:
        await connection.execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
        until: datetime = await connection.fetchval(statements.CLOSABLE, MAX_CLOCK_SKEW)
        await _reopen(connection, (until - timedelta(days=VERIFIED_DAYS)).date())
        return await close_until(connection, until)


async def close_until(connection: "asyncpg.Connection[asyncpg.Record]", until: datetime) -> int:
    """Add up what was booked before, to which nothing may be added any more."""
    closed = 0
    while days := await _close_days(connection, until):
        closed += days
    return closed


async def _reopen(connection: "asyncpg.Connection[asyncpg.Record]", since: date) -> None:
    """Somebody booked on a closed day: a clock is further off than allowed, or old rows were brought in."""
    if reopened := await connection.fetchval(statements.REOPEN, since):
        log.warning("the ledger changed on a closed day", day=str(reopened.date()))


async def _close_days(connection: "asyncpg.Connection[asyncpg.Record]", until: datetime) -> int:
    """Days are always written whole, as far as they go: to begin one anew is to do it once."""
    async with connection.transaction():
        found: datetime = await connection.fetchval(statements.LOCK_BOOKS, until)
        if found >= until:
            return 0
        begin = datetime.combine(found.astimezone(UTC).date(), time(), UTC)
        end = min(until, begin + timedelta(days=DAYS_AT_ONCE))
        for statement in statements.DELETE_ROLLUPS:
            await connection.execute(statement, begin)
        for statement in statements.INSERT_ROLLUPS:
            await connection.execute(statement, begin, end)
        await connection.execute(statements.CLOSE, end)
    return -((begin - end) // timedelta(days=1))
