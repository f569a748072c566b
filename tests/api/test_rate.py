"""The rate of a key, and when to come again."""

from __future__ import annotations

import asyncio

import pytest

from app.api.rate import RateLimit
from app.errors import RateLimitedError


def test_each_key_has_its_own_rate() -> None:
    async def run() -> None:
        rate = RateLimit(5)
        for _ in range(5):
            await rate.spend("a")
        with pytest.raises(RateLimitedError) as caught:
            await rate.spend("a")
        assert caught.value.status == 429
        assert caught.value.retry_after_s is not None
        assert 1 <= caught.value.retry_after_s <= 120
        await rate.spend("b")

    asyncio.run(run())


def test_memory_is_bounded_by_the_keys() -> None:
    async def run() -> int:
        rate = RateLimit(1_000)
        for i in range(3_000):
            await rate.spend(f"key-{i % 7}")
        return len(rate._limiter.storage.storage)  # type: ignore[attr-defined]  # the in-memory storage

    assert asyncio.run(run()) <= 2 * 7
