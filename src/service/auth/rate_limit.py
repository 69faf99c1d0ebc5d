"""Rate limit per API key over a sliding window. Each process counts for itself."""

import math
import time

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from service.errors import RateLimited

Headers = list[tuple[bytes, bytes]]


class RateLimiter:
    """Rate limiter that reports its state in the headers of draft-ietf-httpapi-ratelimit-headers-10."""

    def __init__(self, limit: str) -> None:
        """`limit` is a rate such as `600/minute`."""
        self._limit = parse(limit)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._policy = f'"default";q={self._limit.amount};w={self._limit.get_expiry()}'

    async def consume(self, key_id: str) -> Headers:
        """Count one request. Raises `RateLimited` once the limit is reached."""
        granted = await self._limiter.hit(self._limit, key_id)
        reset_at, remaining = await self._limiter.get_window_stats(self._limit, key_id)
        reset_seconds = max(1, math.ceil(reset_at - time.time()))
        headers = {
            "RateLimit-Policy": self._policy,
            "RateLimit": f'"default";r={remaining};t={reset_seconds}',
        }
        if not granted:
            raise RateLimited(headers={**headers, "Retry-After": str(reset_seconds)})
        return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
