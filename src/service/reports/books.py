"""Closing the books: days that are over are added up once, so that reports need not.

A day is closed when nothing is left that could still book on it: every transaction that began before its end
has ended, with room for clocks that are apart. Until then reports read it from the ledger, so they are exact
however late the books are closed. See docs/decisions/0012-closed-books.md.
"""

from datetime import date, timedelta

import asyncpg
import structlog

from service.db import CLOCKS_APART, Database
from service.reports import statements
from service.settings import Settings

log = structlog.get_logger()

DAYS_AT_ONCE = 31
"""In one transaction, should many be open."""
RECHECKED_DAYS = 7


async def close_books(database: Database, _: Settings) -> int:
    """Close the days that are over; returns how many. Any number of processes may try at once."""
    async with database.own_connection() as connection:
        await connection.execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
        until: date = await connection.fetchval(statements.CLOSABLE, CLOCKS_APART)
        await _reopen(connection, until - timedelta(days=RECHECKED_DAYS))
        return await close_until(connection, until)


async def close_until(connection: "asyncpg.Connection[asyncpg.Record]", until: date) -> int:
    """Add up the days before that one; on none of them may anything be booked any more."""
    closed = 0
    while days := await _close_some(connection, until):
        closed += days
    return closed


async def _reopen(connection: "asyncpg.Connection[asyncpg.Record]", since: date) -> None:
    """Somebody booked on a closed day: a clock is further off than allowed, or old rows were brought in."""
    if reopened := await connection.fetchval(statements.REOPEN, since):
        log.warning("the ledger changed on a closed day", day=str(reopened))


async def _close_some(connection: "asyncpg.Connection[asyncpg.Record]", until: date) -> int:
    async with connection.transaction():
        begin: date = await connection.fetchval(statements.LOCK_BOOKS, until)
        end = min(until, begin + timedelta(days=DAYS_AT_ONCE))
        if begin >= end:
            return 0
        for statement in (*statements.UNROLL, *statements.ROLL_UP):
            await connection.execute(statement, begin, end)
        await connection.execute(statements.CLOSE, end)
    return (end - begin).days
