"""A core kept busy; on its own, so that a process of the pool has next to nothing to import."""

from time import monotonic


def burn_cpu(seconds: float) -> None:
    end = monotonic() + seconds
    while monotonic() < end:
        pass
