"""When the database is away that says nothing about a job: it is done again, and not counted as a try."""

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
"""What only an outage can cause, whoever runs into it."""

DATABASE_DOWN_ERRORS = (
    *OUTAGE_ERRORS,
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg may make of a connection that ends just now
    asyncpg.OperatorInterventionError,
)
"""What a statement of our own can fail with while the database is away, restarts or hangs."""

RETRY_DELAYS_SECONDS = (0.1, 0.2, 0.5, 1.0)
"""Between tries to reach it; the last one again and again."""
