"""The clocks of processes and of the database, and how far they may differ."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from time import time

READ_CLOCK = "select clock_timestamp() as time"

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""Maximum clock skew within a deployment. Rows carry the clock time of the process that wrote them."""
CLOCK_SKEW_WARNING_SECONDS = MAX_CLOCK_SKEW.total_seconds() / 5
"""Early enough to correct a clock before reports and the audit chain suffer."""


async def measure_clock_skew(read_clock: Callable[[], Awaitable[datetime]]) -> float:
    """Return the seconds by which this process's clock is ahead of the database's; negative if it is behind.

    The error is at most half the time that `read_clock` takes.
    """
    started_at = time()
    database_time = (await read_clock()).timestamp()
    return round((started_at + time()) / 2 - database_time, 3)


def is_skewed(seconds: float) -> bool:
    """Return whether the clocks differ by so much that an operator should be warned."""
    return abs(seconds) > CLOCK_SKEW_WARNING_SECONDS
