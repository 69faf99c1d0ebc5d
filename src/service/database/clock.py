"""The difference between this process's clock and the database's."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from time import time

READ_CLOCK = "select clock_timestamp() as time"

CLOCK_SKEW_WARNING_SECONDS = 60.0
"""A fifth of `MAX_CLOCK_SKEW`, so that a clock can be corrected before reports and the audit chain suffer."""


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
