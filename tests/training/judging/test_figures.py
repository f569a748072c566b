from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from training.judging.figures import (
    Judged,
    auprc,
    auroc,
    brier,
    confusion,
    ece,
    ece_top_label,
    estimates,
    nll,
    patient_samples,
    point_figures,
    rates,
    score_figures,
)

unhurried = settings(deadline=None)  # the cores are shared

films = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40)), min_size=4, max_size=80).filter(
    lambda rows: {y for y, _ in rows} == {0, 1}
)


def _arrays(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([y for y, _ in rows]), np.array([s / 40 for _, s in rows])


@unhurried
@given(rows=films)
def test_scores_equal_scikit_learn_ties_included(rows: list[tuple[int, int]]) -> None:
    y, p = _arrays(rows)
    assert auroc(y, p) == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-12)
    assert auprc(y, p) == pytest.approx(metrics.average_precision_score(y, p), abs=1e-12)
    assert brier(y, p) == pytest.approx(metrics.brier_score_loss(y, p), abs=1e-12)
    inner = np.clip(p, 0.01, 0.99)
    assert nll(y, inner) == pytest.approx(metrics.log_loss(y, inner), abs=1e-12)


def test_one_class_has_no_auroc() -> None:
    ones, scores = np.ones(3, np.int64), np.array([0.1, 0.2, 0.3])
    assert np.isnan(auroc(ones, scores))
    assert np.isnan(auprc(1 - ones, scores))


@unhurried
@given(rows=films, bins=st.integers(1, 20), equal_mass=st.booleans())
def test_a_calibration_error_cannot_exceed_the_root_of_brier(
    rows: list[tuple[int, int]], bins: int, equal_mass: bool
) -> None:
    y, p = _arrays(rows)
    assert ece(y, p, bins=bins, equal_mass=equal_mass) ** 2 <= brier(y, p) + 1e-12
    assert ece_top_label(y, p, bins=bins, equal_mass=equal_mass) ** 2 <= brier(y, p) + 1e-12


def test_calibration_error_by_hand() -> None:
    y = np.array([0, 1, 1, 1])
    p = np.array([0.1, 0.3, 0.8, 1.0])
    # two equal-mass bins: |0.2 - 0.5| and |0.9 - 1.0|, half the films each
    assert ece(y, p, bins=2) == pytest.approx(0.2)
    # two equal-width bins split at 0.5 the same way; p = 1 falls into the last bin
    assert ece(y, p, bins=2, equal_mass=False) == pytest.approx(0.2)
    # winners 0.9 right, 0.7 wrong, 0.8 right, 1.0 right: one bin, |0.85 - 0.75|
    assert ece_top_label(y, p, bins=1) == pytest.approx(0.1)


def test_the_earlier_designs_definition_would_fail_the_bound() -> None:
    """Comparing the probability of the positive class with accuracy is no calibration error: perfect films score 0.5."""
    y = np.array([0, 0, 1, 1])
    p = y.astype(float)
    accuracy = ((p >= 0.5) == y).mean()
    assert abs(p.mean() - accuracy) == 0.5
    assert ece(y, p, bins=1) == 0.0
    assert ece_top_label(y, p, bins=1) == 0.0


def test_rates_by_hand() -> None:
    y = np.array([1, 1, 1, 0, 0])
    margins = np.array([2.0, 0.5, -1.0, 0.5, -2.0])
    counts = confusion(y, margins, 0.5)  # equal to the threshold = positive
    assert counts == {"tp": 2, "fp": 1, "tn": 1, "fn": 1}
    found = rates(counts)
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert found["specificity"] == 0.5
    assert found["ppv"] == pytest.approx(2 / 3)
    assert found["npv"] == 0.5
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    predicted = margins >= 0.5
    assert found["f1"] == pytest.approx(metrics.f1_score(y, predicted))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, predicted))


def test_the_bootstrap_draws_patients_whole() -> None:
    patients = np.array(["a", "b", "b", "c", "c", "c"])
    sizes = {"a": 1, "b": 2, "c": 3}
    for sample in patient_samples(patients, 50, seed=0):
        drawn = patients[sample]
        counts = {p: int((drawn == p).sum()) for p in sizes}
        assert all(counts[p] % sizes[p] == 0 for p in sizes)
        assert sum(counts[p] // sizes[p] for p in sizes) == 3
    again = patient_samples(patients, 50, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(patient_samples(patients, 50, seed=0), again, strict=True))


def test_intervals_hold_the_value_and_widen_when_patients_repeat() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 300)
    margins = y + rng.normal(0, 1.2, 300)
    probability = 1 / (1 + np.exp(-margins))
    alone = Judged(y, margins, probability, np.arange(300).astype(str))
    found = estimates(alone, score_figures, bootstraps=200, seed=3)
    for estimate in found.values():
        assert estimate.ci is not None
    auc = found["auroc"]
    assert auc.ci is not None
    assert auc.ci[0] < auc.value < auc.ci[1]
    assert auc.value == pytest.approx(metrics.roc_auc_score(y, margins))
    ten = alone.take(np.repeat(np.arange(300), 10))
    clustered = estimates(ten, score_figures, bootstraps=200, seed=3)["auroc"]
    assert clustered.ci == pytest.approx(auc.ci)  # copies of a film are no new patients


def test_a_figure_that_cannot_be_computed_is_left_out() -> None:
    one_class = Judged(np.ones(4, np.int64), np.arange(4.0), np.linspace(0.2, 0.8, 4), np.array(list("abcd")))
    assert "auroc" not in estimates(one_class, score_figures, bootstraps=20, seed=0)
    assert "specificity" not in estimates(one_class, point_figures(0.5), bootstraps=20, seed=0)
    assert estimates(one_class, point_figures(0.5), bootstraps=20, seed=0)["sensitivity"].value == 0.75
