"""Scheduled maintenance of deliveries. Each function returns the number of affected rows."""

from service.database.bulk import run_in_batches
from service.database.database import Database
from service.settings import Settings
from service.webhooks import statements

BATCH_SIZE = 5000


async def fail_deliveries_of_disabled(database: Database, _: Settings) -> int:
    """Fail the pending deliveries of webhooks that the service has disabled."""
    return await run_in_batches(database, statements.FAIL_OF_DISABLED, BATCH_SIZE)
