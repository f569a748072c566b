"""The rate of a key, and when to come again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.rate import RateLimit
from app.errors import RateLimitedError


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def refused(rate: RateLimit, key: str = "a") -> float | None:
    """Spend one; the time to wait, None if it passed."""
    try:
        rate.spend(key)
    except RateLimitedError as error:
        return error.retry_after_s
    return None


def test_each_key_has_its_own_rate() -> None:
    rate = RateLimit(5, Clock(600))
    assert [refused(rate) is None for _ in range(6)] == [True] * 5 + [False]
    assert refused(rate, "b") is None


@pytest.mark.parametrize(
    ("limit", "at", "free_at"),
    [
        (5, 0.0, 72.0),  # 5 * (1 - e/60) <= 4 in the next minute: e = 12
        (5, 59.0, 72.0),
        (1, 0.0, 120.0),  # a single request must fade away whole
        (60, 30.0, 61.0),
    ],
)
def test_when_the_next_place_is_free(limit: int, at: float, free_at: float) -> None:
    clock = Clock(600 + at)
    rate = RateLimit(limit, clock)
    for _ in range(limit):
        rate.spend("a")
    assert refused(rate) == pytest.approx(free_at - at)


@given(
    limit=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 90), st.integers(1, 60)), min_size=1, max_size=12),
)
def test_the_time_told_is_exact(limit: int, steps: list[tuple[float, int]]) -> None:
    """Whatever was sent before: just before the time told a request is refused, just after it one passes."""
    clock = Clock(0.0)
    rate = RateLimit(limit, clock)
    for pause, requests in steps:
        clock.now += pause
        for _ in range(requests):
            wait = refused(rate)
            if wait is not None:
                assert 0 < wait <= 120
                told = clock.now + wait
                if wait > 2e-3:
                    clock.now = told - 1e-3
                    assert refused(rate) is not None
                clock.now = told + 1e-6
                assert refused(rate) is None


@given(limit=st.integers(1, 30), pauses=st.lists(st.floats(0, 20), min_size=5, max_size=200))
def test_no_minute_holds_more_than_twice_the_limit_and_no_aligned_one_more_than_the_limit(
    limit: int, pauses: list[float]
) -> None:
    clock = Clock(0.0)
    rate = RateLimit(limit, clock)
    passed: list[float] = []
    for pause in pauses:
        clock.now += pause
        if refused(rate) is None:
            passed.append(clock.now)
    by_minute: dict[int, int] = {}
    for at in passed:
        by_minute[int(at // 60)] = by_minute.get(int(at // 60), 0) + 1
    assert max(by_minute.values()) <= limit


def test_memory_is_bounded_by_the_keys() -> None:
    clock = Clock()
    rate = RateLimit(10, clock)
    for i in range(3_000):
        clock.now += 1
        refused(rate, f"key-{i % 7}")
    assert len(rate._minutes) == 7
