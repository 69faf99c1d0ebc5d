"""The errors of a database outage. The job runs again, and the attempt is not counted."""

import asyncpg

from service.errors import DatabaseUnavailable, Overloaded

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

DATABASE_DOWN_ERRORS = (
    *OUTAGE_ERRORS,
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg may raise this when a connection ends
    asyncpg.OperatorInterventionError,
)
"""Errors of a job's own bookkeeping while the database is down, restarting or hanging."""

RETRY_DELAYS_SECONDS = (0.1, 0.2, 0.5, 1.0)
"""Delays between reconnects; the last one repeats."""
