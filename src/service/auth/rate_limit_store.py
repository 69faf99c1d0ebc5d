"""Sliding windows of the library `limits`, in this process or in Redis."""

import math
import time
from typing import Any, NamedTuple, Protocol

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

KEY_PREFIX = "depot"


class Window(NamedTuple):
    """Result of counting one request: whether it is granted, and how many remain until the reset."""

    granted: bool
    reset_at: float
    remaining: int


class Windows(Protocol):
    async def hit(self, limit: RateLimitItem, key_id: str) -> Window:
        """Count one request. Raises `StorageError` if the store is down."""


class MemoryWindows:
    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def hit(self, limit: RateLimitItem, key_id: str) -> Window:
        granted = await self._limiter.hit(limit, key_id)
        return Window(granted, *await self._limiter.get_window_stats(limit, key_id))


class RedisWindows:
    """Counts and reads a window in one round trip, which takes half the CPU of the library's two."""

    def __init__(self, pool: Any) -> None:
        from redis.asyncio import Redis  # noqa: PLC0415  # an optional extra
        from redis.exceptions import RedisError  # noqa: PLC0415

        self._hit = Redis(connection_pool=pool).register_script(_script())
        self._errors = RedisError

    async def hit(self, limit: RateLimitItem, key_id: str) -> Window:
        key = (
            f"{KEY_PREFIX}:{{{limit.key_for(key_id)}}}"  # the braces keep both keys on one node of a cluster
        )
        try:
            row = await self._hit([f"{key}/-1", key], [limit.amount, limit.get_expiry(), 1])
        except self._errors as error:
            raise StorageError(error) from error
        return remaining_window(limit, *(int(value or 0) for value in row))


def _script() -> str:
    """Return one script that runs the library's two: count a request, then read the window."""
    from limits.aio.storage.redis.redispy import RedispyBridge  # noqa: PLC0415  # imports Redis

    acquire, read = (
        source.decode()
        for source in (RedispyBridge.SCRIPT_ACQUIRE_SLIDING_WINDOW, RedispyBridge.SCRIPT_SLIDING_WINDOW)
    )
    return f"""
local function acquire(KEYS, ARGV) {acquire} end
local function read(KEYS, ARGV) {read} end
local granted = acquire(KEYS, ARGV) and 1 or 0
return {{granted, unpack(read(KEYS, {{ARGV[2]}}))}}"""


def remaining_window(
    limit: RateLimitItem, granted: int, previous: int, previous_ms: int, current: int, current_ms: int
) -> Window:
    """Return what the library reports for these counters and their times to live."""
    expiry = limit.get_expiry()
    previous_ends_in, current_ends_in = max(0, previous_ms) / 1000, max(0, current_ms) / 1000
    used = math.floor(previous * previous_ends_in / expiry + current)
    resets_in = [current_ends_in % expiry] if current else []
    resets_in += [previous_ends_in % (expiry / previous)] if previous else []
    return Window(bool(granted), time.time() + min(resets_in, default=0), max(0, limit.amount - used))
