"""Waiting times, and that the clock may be put back."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from app.gateway.config import Retry
from app.gateway.retry import is_due, wait_s


@given(
    first_s=st.floats(0.01, 100), factor=st.floats(1, 10), longer_s=st.floats(0, 10_000), attempts=st.integers(1, 5_000)
)
def test_waits_grow_between_half_and_the_whole_and_are_bounded(
    first_s: float, factor: float, longer_s: float, attempts: int
) -> None:
    retry = Retry(first_s=first_s, factor=factor, max_s=first_s + longer_s)
    whole = min(math.exp(min(math.log(first_s) + min(attempts - 1, 1_000) * math.log(factor), 700)), retry.max_s)
    assert 0.499 * whole <= wait_s(retry, attempts) <= 1.001 * whole


def test_what_the_other_side_asks_for_is_kept() -> None:
    assert wait_s(Retry(first_s=1, max_s=2), 1, asked_s=30.0) == 30.0


def test_due() -> None:
    assert is_due(10.0, 10.0, 60.0)
    assert not is_due(10.5, 10.0, 60.0)
    assert not is_due(70.0, 10.0, 60.0)
    assert is_due(72.0, 10.0, 60.0)  # the clock was put back by an hour, say
