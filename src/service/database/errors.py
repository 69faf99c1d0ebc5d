"""The errors of a database, grouped by what they mean for the caller."""

import asyncio

import asyncpg

from service.errors import DatabaseUnavailable, Overloaded, Unavailable

_NO_RESPONSE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # raised by asyncpg if a connection closes during a call
)

CONNECTION_ERRORS = (*_NO_RESPONSE, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
"""The server is unreachable, stopping or starting. Any other error proves that it responds."""

OUTAGE_ERRORS = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    DatabaseUnavailable,
    Overloaded,
)
"""Errors that only an outage causes, wherever they are raised."""

DATABASE_DOWN_ERRORS = (*OUTAGE_ERRORS, *CONNECTION_ERRORS)
"""Errors a statement can raise only because the database is down, restarting or hanging."""

DATABASE_ERRORS = (*_NO_RESPONSE, asyncpg.PostgresError, DatabaseUnavailable, Overloaded)
"""All errors of a statement, including those that its own data causes."""

SHARED_ERRORS = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    Unavailable,
)
"""Errors that no single member of a batch causes, or after which the batch may have been committed.

They are the result of every member. After any other error nothing was committed, and the members run one by
one.
"""

DISCARD_CONNECTION_ERRORS = (asyncio.CancelledError, TimeoutError, asyncpg.ReadOnlySQLTransactionError)
"""After these a connection is discarded: its statement may still run, or its server has become a standby."""

TRY_NEXT_SERVER_ERRORS = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
"""After these the next server is tried: this one is unreachable, silent or starting, or a standby when a
primary is required."""
