"""app.decision: margins and shown probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.manifest import (
    Calibration,
    IsotonicCalibration,
    IsotonicCurve,
    PlattCalibration,
    TemperatureCalibration,
)
from app.decision import margins, probabilities, scaled_logits, sigmoid
from tests.support.decisions import FINITE, LOGITS, NONE, TEMPERATURES, calibrations, unhurried


def test_scaled_logits_divide_by_the_temperature_only() -> None:
    hot = TemperatureCalibration(method="temperature", temperature=2.0)
    platt = PlattCalibration(method="platt", slope=(3.0, 3.0), intercept=(1.0, 1.0))
    z = np.array([3.0, -1.0], dtype=np.float32)
    assert scaled_logits(z, hot).tolist() == [1.5, -0.5]
    assert scaled_logits(z, platt).tolist() == [3.0, -1.0]
    assert scaled_logits(z, NONE).dtype == np.float64


def test_margins_of_binary_and_multilabel_are_the_scaled_logits() -> None:
    assert margins("binary", [1.25]).tolist() == [1.25]
    assert margins("multilabel", [1.25, -3.0]).tolist() == [1.25, -3.0]


def test_margin_of_two_classes_is_the_difference_of_their_logits() -> None:
    assert margins("multiclass", [3.0, 1.0]).tolist() == [2.0, -2.0]


def test_margins_of_three_classes_by_hand() -> None:
    expected = [
        1.0 - math.log(math.e**2 + math.e**3),
        2.0 - math.log(math.e + math.e**3),
        3.0 - math.log(math.e + math.e**2),
    ]
    assert margins("multiclass", [1.0, 2.0, 3.0]) == pytest.approx(expected, rel=1e-14)


def test_margins_and_probabilities_hold_for_huge_logits() -> None:
    m = margins("multiclass", [1e4, -1e4, 0.0])
    assert m.tolist() == [1e4, -2e4, -1e4]
    assert probabilities("multiclass", m, NONE).tolist() == [1.0, 0.0, 0.0]
    assert sigmoid([1e4, -1e4, 800.0, -800.0]).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_margins_take_many_films_at_once() -> None:
    films = np.array([[1.0, 2.0, 3.0], [0.0, -5.0, 5.0]])
    assert np.array_equal(margins("multiclass", films), np.stack([margins("multiclass", film) for film in films]))


def test_platt_and_isotonic_map_each_margin_by_its_own_curve() -> None:
    platt = PlattCalibration(method="platt", slope=(2.0, 1.0), intercept=(-1.0, 0.5))
    assert probabilities("multilabel", [0.5, -0.5], platt).tolist() == [0.5, 0.5]
    isotonic = IsotonicCalibration(
        method="isotonic",
        curves=(
            IsotonicCurve(margins=(-1.0, 1.0), probabilities=(0.1, 0.9)),
            IsotonicCurve(margins=(0.0, 4.0), probabilities=(0.0, 1.0)),
        ),
    )
    assert probabilities("multilabel", [0.0, 1.0], isotonic).tolist() == [0.5, 0.25]
    assert probabilities("multilabel", [-50.0, 50.0], isotonic).tolist() == [0.1, 1.0]


@unhurried
@given(LOGITS, TEMPERATURES)
def test_softmax_probabilities_sum_to_one(logits: list[float], temperature: float) -> None:
    calibration = TemperatureCalibration(method="temperature", temperature=temperature)
    m = margins("multiclass", scaled_logits(logits, calibration))
    assert probabilities("multiclass", m, calibration).sum() == pytest.approx(1.0, abs=1e-12)


@unhurried
@given(st.lists(FINITE, min_size=2, max_size=14))
def test_margins_are_finite_and_keep_the_order_of_the_logits(logits: list[float]) -> None:
    m = margins("multiclass", logits)
    assert np.isfinite(m).all()
    order = np.argsort(logits, kind="stable")
    assert np.all(np.diff(m[order]) >= -1e-14 * np.abs(m).max())
    assert np.all(np.diff(m[order])[np.diff(np.array(logits)[order]) == 0] == 0)  # equal logits tie exactly


@unhurried
@given(LOGITS)
def test_margin_is_the_logit_of_the_softmax_probability(logits: list[float]) -> None:
    z = np.array(logits)
    e = np.exp(z - z.max())
    m = margins("multiclass", z)
    for k in range(len(z)):
        rest = np.delete(e, k).sum()  # 1 - p without cancellation
        assert m[k] == pytest.approx(math.log(e[k] / rest), rel=1e-9, abs=1e-9)
    assert probabilities("multiclass", m, NONE) == pytest.approx(e / e.sum(), rel=1e-12)


@unhurried
@given(LOGITS, st.randoms(use_true_random=False))
def test_margins_follow_a_permutation_of_the_classes(logits: list[float], random: Any) -> None:
    order = list(range(len(logits)))
    random.shuffle(order)
    permuted = margins("multiclass", np.array(logits)[order])
    assert permuted == pytest.approx(margins("multiclass", logits)[order], rel=1e-12, abs=1e-12)


@unhurried
@given(LOGITS, st.floats(-100, 100))
def test_margins_of_multiclass_ignore_a_common_shift(logits: list[float], shift: float) -> None:
    assert margins("multiclass", np.array(logits) + shift) == pytest.approx(margins("multiclass", logits), abs=1e-10)


@unhurried
@given(calibrations(1), FINITE, FINITE)
def test_shown_probability_never_falls_as_the_margin_rises(calibration: Calibration, a: float, b: float) -> None:
    low, high = sorted((a, b))
    p_low, p_high = (float(probabilities("binary", [m], calibration)[0]) for m in (low, high))
    assert 0.0 <= p_low <= 1.0
    assert p_low <= p_high * (1 + 1e-14)  # exp is monotone to the last place
