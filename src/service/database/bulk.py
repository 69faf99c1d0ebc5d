"""Statements that change many rows, in batches."""

from service.database.database import Database

BATCHES_MAX = 100
"""Maximum number of batches per run; the next run continues."""


async def run_in_batches(database: Database, statement: str, batch_size: int, *arguments: object) -> int:
    """Run a statement that changes up to $1 rows and returns their number, until it changes fewer.

    Return the number of all changed rows. The connection has a longer timeout than a request has.
    """
    total = 0
    async with database.dedicated_connection() as connection:
        await connection.execute("set statement_timeout = '5min'")
        for _ in range(BATCHES_MAX):
            count = await connection.fetchval(statement, batch_size, *arguments)
            total += count
            if count < batch_size:
                break
    return total
