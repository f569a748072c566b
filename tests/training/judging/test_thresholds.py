from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ConfigurationError
from training.judging.figures import confusion, rates
from training.judging.thresholds import curve, for_sensitivity, for_specificity, least_cost, max_f1, youden

unhurried = settings(deadline=None)  # the cores are shared

films = st.lists(st.tuples(st.integers(0, 1), st.integers(-9, 9)), min_size=2, max_size=60).filter(
    lambda rows: {y for y, _ in rows} == {0, 1}
)


def _arrays(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([y for y, _ in rows]), np.array([float(s) for _, s in rows])


def _rates(y: np.ndarray, m: np.ndarray, threshold: float) -> tuple[float, float]:
    found = rates(confusion(y, m, threshold))
    return found["sensitivity"], found["specificity"]


def test_by_hand() -> None:
    y = np.array([0, 0, 0, 1, 1, 1])
    m = np.array([-3.0, -1.0, 1.0, 0.0, 2.0, 4.0])
    assert youden(y, m) in {-0.5, 1.5}  # sensitivity + specificity is 5/3 at both
    assert for_sensitivity(y, m, 1.0) == pytest.approx(-0.5)
    assert for_sensitivity(y, m, 0.6) == pytest.approx(1.5)
    assert for_specificity(y, m, 1.0) == pytest.approx(1.5)
    assert for_specificity(y, m, 0.6) == pytest.approx(-0.5)


@unhurried
@given(rows=films)
def test_the_curve_is_what_the_thresholds_do(rows: list[tuple[int, int]]) -> None:
    y, m = _arrays(rows)
    for threshold, sensitivity, specificity in zip(*curve(y, m), strict=True):
        assert _rates(y, m, float(threshold)) == pytest.approx((sensitivity, specificity))
        assert threshold not in m  # no film of the fit sits on a threshold


@unhurried
@given(rows=films, target=st.sampled_from([0.5, 0.9, 1.0]))
def test_targets_are_met_and_not_overdone(rows: list[tuple[int, int]], target: float) -> None:
    y, m = _arrays(rows)
    candidates = curve(y, m)[0]
    high = for_sensitivity(y, m, target)
    assert _rates(y, m, high)[0] >= target - 1e-12
    assert all(_rates(y, m, t)[0] < target for t in candidates[candidates > high])
    low = for_specificity(y, m, target)
    assert _rates(y, m, low)[1] >= target - 1e-12
    assert all(_rates(y, m, t)[1] < target for t in candidates[candidates < low])
    f1 = [rates(confusion(y, m, float(t)))["f1"] for t in candidates]
    assert rates(confusion(y, m, max_f1(y, m)))["f1"] == pytest.approx(max(f1))
    best = max(sum(_rates(y, m, float(t))) for t in candidates)
    assert sum(_rates(y, m, youden(y, m))) == pytest.approx(best)


def _cost(y: np.ndarray, m: np.ndarray, threshold: float) -> float:
    """Three for a miss, one for a false alarm."""
    found = confusion(y, m, threshold)
    return 3.0 * found["fn"] + found["fp"]


@unhurried
@given(rows=films)
def test_no_threshold_costs_less_than_the_cheapest(rows: list[tuple[int, int]]) -> None:
    y, m = _arrays(rows)
    cheapest = least_cost(y, m, missed=3.0, false_alarm=1.0)
    assert _cost(y, m, cheapest) == pytest.approx(min(_cost(y, m, float(t)) for t in curve(y, m)[0]))


def test_costs_by_hand() -> None:
    y = np.array([0, 0, 0, 1, 1, 1])
    m = np.array([-3.0, -1.0, 1.0, 0.0, 2.0, 4.0])
    assert least_cost(y, m, missed=10.0, false_alarm=1.0) == -0.5  # one false alarm rather than a miss
    assert least_cost(y, m, missed=1.0, false_alarm=10.0) == 1.5  # one miss rather than a false alarm
    assert (
        least_cost(y, m, missed=10.0, false_alarm=1.0, prevalence=0.01) == 1.5
    )  # where few are ill, alarms weigh more
    assert max_f1(y, m) == -0.5  # 6 / 7, against 4 / 5


def test_one_class_gives_no_threshold() -> None:
    with pytest.raises(ConfigurationError, match="both classes"):
        youden(np.zeros(3, np.int64), np.arange(3.0))
