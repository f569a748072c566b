"""The instants of an open loop are a Poisson process, fixed by a seed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.load import Arrivals
from benchmarks.schedule import every_nth, poisson_schedule


def test_the_gaps_are_exponential_with_the_rate_asked_for() -> None:
    instants = poisson_schedule(50.0, 400.0, seed=1)
    gaps = np.diff(instants, prepend=0.0)
    assert instants.size == pytest.approx(20_000, abs=4 * np.sqrt(20_000))
    assert gaps.mean() == pytest.approx(0.02, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # of an exponential: standard deviation = mean
    assert (gaps > 3 * 0.02).mean() == pytest.approx(np.exp(-3), rel=0.1)


def test_counts_in_equal_spans_vary_as_those_of_a_poisson_process() -> None:
    counts = np.histogram(poisson_schedule(20.0, 1_000.0, seed=2), bins=1_000, range=(0, 1_000))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.15)  # evenly spaced requests would give 0


def test_the_schedule_is_ascending_within_its_length_and_repeatable() -> None:
    instants = poisson_schedule(7.0, 30.0, seed=3)
    assert (np.diff(instants) >= 0).all()
    assert instants[0] >= 0
    assert instants[-1] < 30.0
    assert np.array_equal(instants, poisson_schedule(7.0, 30.0, seed=3))
    assert not np.array_equal(instants[:50], poisson_schedule(7.0, 30.0, seed=4)[:50])


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_a_rate_and_a_length_are_positive(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="requests per second"):
        poisson_schedule(rate, seconds, seed=0)


def test_a_calm_follows_the_storm_and_every_tenth_request_is_urgent() -> None:
    storm = Arrivals.poisson(100.0, 2.0, forms=4, seed=5).urgent_every(10, forms=4)
    both = storm.then(Arrivals.poisson(5.0, 3.0, forms=4, seed=6))
    assert both.schedule_s == 5.0
    assert (np.diff(both.at) >= 0).all()
    assert (both.at[storm.at.size :] >= 2.0).all()
    urgent = both.form >= 4
    assert urgent[: storm.at.size].sum() == -(-storm.at.size // 10)
    assert not urgent[storm.at.size :].any()
    assert set(both.form[urgent]) == {4, 6}  # every tenth of a turn of four
    assert every_nth(3, 7).tolist() == [True, False, False, True, False, False, True]
