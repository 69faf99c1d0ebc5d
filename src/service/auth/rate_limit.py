"""Rate limit per API key over a sliding window. Each process counts for itself."""

import math
import time
from functools import lru_cache

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from service.errors import RateLimited

Headers = list[tuple[bytes, bytes]]
_parse = lru_cache(1024)(parse)


class RateLimiter:
    """Rate limiter that reports its state in the headers of draft-ietf-httpapi-ratelimit-headers-10."""

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def consume(self, key_id: str, rate: str) -> Headers:
        """Count one request against a rate such as `600/minute`.

        Raises `RateLimited` once the limit is reached.
        """
        limit = _parse(rate)
        granted = await self._limiter.hit(limit, key_id)
        reset_at, remaining = await self._limiter.get_window_stats(limit, key_id)
        reset_seconds = max(1, math.ceil(reset_at - time.time()))
        headers = {
            "RateLimit-Policy": f'"default";q={limit.amount};w={limit.get_expiry()}',
            "RateLimit": f'"default";r={remaining};t={reset_seconds}',
        }
        if not granted:
            raise RateLimited(headers={**headers, "Retry-After": str(reset_seconds)})
        return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
