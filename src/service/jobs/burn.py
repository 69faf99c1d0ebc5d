"""CPU load for tests, in its own module so that a pool process imports almost nothing."""

from time import monotonic


def burn_cpu(seconds: float) -> None:
    end = monotonic() + seconds
    while monotonic() < end:
        pass
