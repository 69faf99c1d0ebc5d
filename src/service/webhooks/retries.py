"""When a delivery that failed is tried again: soon at first, then ever more patiently, for three days."""

from collections.abc import Sequence

SECOND, MINUTE, HOUR = 1.0, 60.0, 3600.0
SCHEDULE_SECONDS = (
    *(5 * SECOND, 30 * SECOND, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE),
    *(2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 20 * HOUR),
)
"""The pause after the first attempt, the second, and so on; after the last of them there is one more."""

JITTER = 0.2
RETRY_AFTER_MAX_SECONDS = 24 * HOUR


def retry_delay_seconds(
    attempts: int, schedule: Sequence[float], *, chance: float, retry_after: float = 0.0
) -> float | None:
    """How long to wait after so many failed attempts. None: no more of them.

    `chance`, from 0 to 1, spreads those that failed together by 20 % to either side. `retry_after` is what
    the receiver asked for; it can make the pause longer, not shorter.
    """
    if attempts > len(schedule):
        return None
    pause = schedule[attempts - 1] * (1 - JITTER + 2 * JITTER * chance)
    return max(pause, min(retry_after, RETRY_AFTER_MAX_SECONDS))
