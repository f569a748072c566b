"""How many requests a key may make: a sliding window per key id, in memory, for this process.

Only ids of valid keys are ever stored, two numbers each, so the memory is bounded by the number of keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from app.errors import RateLimitedError

WINDOW_S: Final = 60.0


class RateLimit:
    """Requests in any 60 s, approximated: those of this minute, and those of the minute before by the part of it that still counts.

    With c and p requests in the two minutes and e seconds of this one gone, c + p * (1 - e / 60) may not exceed `per_minute` - 1 for
    one more to pass (the sliding window counter, as of nginx and Cloudflare: it takes the requests of a minute as evenly spread).

    Args:
        per_minute: requests.
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = per_minute
        self._clock = clock
        self._minutes: dict[
            str, tuple[int, int, int]
        ] = {}  # by key id: which minute, requests in it and in the one before

    def spend(self, key_id: str) -> None:
        """Count one request.

        Raises:
            RateLimitedError: the window is full; `retry_after_s` is when it has a place again, if the key sends nothing until then.
        """
        now = self._clock()
        minute, gone = int(now // WINDOW_S), now % WINDOW_S
        last, current, before = self._minutes.get(key_id, (minute, 0, 0))
        if last != minute:
            current, before = 0, current if last == minute - 1 else 0
        if current + before * (1 - gone / WINDOW_S) > self._limit - 1:
            self._minutes[key_id] = (minute, current, before)
            raise RateLimitedError(retry_after_s=_free_at(self._limit, current, before) - gone)
        self._minutes[key_id] = (minute, current + 1, before)


def _free_at(limit: int, current: int, before: int) -> float:
    """Seconds from the beginning of this minute until one more request passes: the formula above, solved for e."""
    if current <= limit - 1:  # what the last minute left fades away within this one
        return WINDOW_S * (1 - (limit - 1 - current) / before)
    return WINDOW_S * (2 - (limit - 1) / current)  # this minute is full: it fades in the next
