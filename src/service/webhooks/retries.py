"""The retry schedule of failed deliveries: growing delays over three days."""

from collections.abc import Sequence

SECOND, MINUTE, HOUR = 1.0, 60.0, 3600.0
SCHEDULE_SECONDS = (
    *(5 * SECOND, 30 * SECOND, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE),
    *(2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 20 * HOUR),
)
"""Delays after the first failed attempt, the second, and so on; a final attempt follows the last delay."""

JITTER = 0.2
RETRY_AFTER_MAX_SECONDS = 24 * HOUR


def retry_delay_seconds(
    attempts: int, schedule: Sequence[float], *, chance: float, retry_after: float = 0.0
) -> float | None:
    """Return the seconds until the next attempt after `attempts` failed ones, or None if there is none.

    `chance` (0 to 1) spreads deliveries that failed together by ±20%. `retry_after` is the receiver's request
    in seconds; it only lengthens the delay.
    """
    if attempts > len(schedule):
        return None
    delay = schedule[attempts - 1] * (1 - JITTER + 2 * JITTER * chance)
    return max(delay, min(retry_after, RETRY_AFTER_MAX_SECONDS))
