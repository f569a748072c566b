"""How many requests a key may make: a sliding window per key id, in memory, for this process.

Only ids of valid keys are ever stored, so the memory is bounded by the number of keys.
"""

from __future__ import annotations

import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from app.errors import RateLimitedError


class RateLimit:
    """Args: per_minute: requests a key may make in any 60 s (approximated by two weighted one-minute windows)."""

    def __init__(self, per_minute: int) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._item = RateLimitItemPerMinute(per_minute)

    async def spend(self, key_id: str) -> None:
        """Count one request.

        Raises:
            RateLimitedError: the window is full; `retry_after_s` says when a place may be free.
        """
        if not await self._limiter.hit(self._item, key_id):
            stats = await self._limiter.get_window_stats(self._item, key_id)
            raise RateLimitedError(retry_after_s=max(1.0, stats.reset_time - time.time()))
