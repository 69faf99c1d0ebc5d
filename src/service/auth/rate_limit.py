"""Rate limit per API key over a sliding window, counted by each process or in Redis for all of them."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import structlog
from limits import RateLimitItem, parse
from limits.errors import StorageError

from service.auth.rate_limit_store import MemoryWindows, RedisWindows, Window, Windows
from service.errors import RateLimited
from service.observability.metrics import Metrics

log = structlog.get_logger()

Headers = list[tuple[bytes, bytes]]
_parse = lru_cache(1024)(parse)

STORE_TIMEOUT_SECONDS = 0.5
"""Time that a request waits for the store."""
STORE_PAUSE_SECONDS = 0.5
"""Time between two attempts to reach a store that is down."""
STORE_CHECKS_MAX = 4
"""Concurrent checks per process. A check is brief, so few suffice. The semaphore is fair; the waiters of
redis-py's own pool starve."""


class RateLimiter:
    """Rate limiter that reports its state in the headers of draft-ietf-httpapi-ratelimit-headers-10.

    While the store is down, requests pass unchecked. A task asks it, so that no request waits for it.
    """

    def __init__(self, metrics: Metrics, store_url: str | None = None) -> None:
        self._metrics = metrics
        self._pool = _redis_pool(store_url) if store_url else None
        self._windows: Windows = RedisWindows(self._pool) if self._pool else MemoryWindows()
        self._slots = asyncio.Semaphore(STORE_CHECKS_MAX)
        self._recovery: asyncio.Task[None] | None = None
        """It exists while the store is down."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect to the store, and close the connections when the block ends."""
        try:
            if self._pool is not None:  # so that the log reports a store that is down at the start
                await self._reach_store()
            yield
        finally:
            if self._recovery is not None:
                self._recovery.cancel()
            if self._pool is not None:
                await self._pool.disconnect()

    async def consume(self, key_id: str, rate: str) -> Headers:
        """Count one request against a rate such as `600/minute`.

        Raises `RateLimited` once the limit is reached.
        """
        limit = _parse(rate)
        window = None if self._recovery is not None else await self._hit(limit, key_id)
        if window is None:
            self._metrics.rate_limit_unchecked.inc()
            return []
        reset_seconds = max(1, math.ceil(window.reset_at - time.time()))
        headers = {**_policy(limit), "RateLimit": f'"default";r={window.remaining};t={reset_seconds}'}
        if not window.granted:
            raise RateLimited(headers={**headers, "Retry-After": str(reset_seconds)})
        return [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def _hit(self, limit: RateLimitItem, key_id: str) -> Window | None:
        """Count one request in the store, or return None if the store is down."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT_SECONDS), self._slots:
                return await self._windows.hit(limit, key_id)
        except (StorageError, OSError) as error:  # TimeoutError is an OSError
            if self._recovery is None:
                self._recovery = asyncio.create_task(self._recover())
                cause = error if isinstance(error, OSError) else error.__cause__ or error
                log.warning(
                    "rate_limit_store_down", cause=type(cause).__name__
                )  # its text may contain the URL
            return None

    async def _reach_store(self) -> bool:
        return await self._hit(_parse("1/second"), "start") is not None

    async def _recover(self) -> None:
        """Ask the store until it answers."""
        try:
            is_up = False
            while not is_up:
                await asyncio.sleep(STORE_PAUSE_SECONDS)
                is_up = await self._reach_store()
            log.info("rate_limit_store_up")
        finally:
            self._recovery = None


def _policy(limit: RateLimitItem) -> dict[str, str]:
    return {"RateLimit-Policy": f'"default";q={limit.amount};w={limit.get_expiry()}'}


def _redis_pool(url: str) -> Any:
    """Return a pool of connections; a broken one is replaced once."""
    from redis.asyncio import ConnectionPool  # noqa: PLC0415  # of an optional extra
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    return ConnectionPool.from_url(
        url,
        max_connections=2 * STORE_CHECKS_MAX,  # those of canceled checks are still closing
        socket_connect_timeout=STORE_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )
