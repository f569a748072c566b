"""How long to wait before the next try."""

from __future__ import annotations

import random

from app.gateway.config import Retry


def wait_s(retry: Retry, attempts: int, asked_s: float | None = None) -> float:
    """Exponential backoff with jitter, so that those who failed together do not come back together.

    Args:
        attempts: tries so far, 1 or more.
        asked_s: what the other side asked for; never waited less.

    Returns:
        between half of `first_s * factor**(attempts - 1)` (at most `max_s`) and the whole of it; s.
    """
    exponent = min(attempts - 1, 1_000)
    try:
        whole = min(retry.first_s * retry.factor**exponent, retry.max_s)
    except OverflowError:
        whole = retry.max_s
    return max(whole * random.uniform(0.5, 1.0), asked_s or 0.0)  # noqa: S311 - no secret


def is_due(next_at: float, now: float, longest_s: float) -> bool:
    """Whether it is time; also where the clock was put back since."""
    return next_at <= now or next_at > now + longest_s + 1.0
