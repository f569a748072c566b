from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from app.domain import Task
from app.errors import ConfigurationError
from training.judging import weighted
from training.judging.calibrate import NONE
from training.judging.figures import (
    Judged,
    auprc,
    auroc,
    brier,
    class_scores,
    confusion,
    ece,
    ece_class_wise,
    ece_top_label,
    estimates,
    macro,
    nll,
    paired_difference,
    patient_samples,
    patient_weights,
    rates,
    rates_at,
    score_figures,
    scores_of,
)
from training.judging.scored import Scored

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


@unhurried
@given(rows=films, share=st.sampled_from([0.5, 0.8, 0.9, 1.0]), seed=st.integers(0, 1000))
def test_sensitivity_at_a_specificity_is_the_best_threshold_of_all(
    rows: list[tuple[int, int]], share: float, seed: int
) -> None:
    """Every threshold tried in turn, on resampled films: whole counts, so that 9 of 10 is 90 %."""
    y, p = _arrays(rows)
    weights = np.random.default_rng(seed).integers(0, 3, size=(4, len(y))).astype(np.float64)
    for row, found in zip(weights, weighted.sensitivity_at(weights, y, p, share), strict=True):
        drawn = np.repeat(np.arange(len(y)), row.astype(int))
        truth, scores = y[drawn], p[drawn]
        if len(set(truth)) < 2:
            assert np.isnan(found)
            continue
        negatives = int((truth == 0).sum())
        tried = [
            np.mean(scores[truth == 1] >= t)
            for t in [*scores, 2.0]
            if 10 * int((scores[truth == 0] < t).sum()) >= round(10 * share) * negatives
        ]
        assert found == pytest.approx(max(tried), abs=1e-12)


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


several = st.lists(st.tuples(st.integers(0, 2), *[st.integers(1, 20)] * 3), min_size=3, max_size=50)


@unhurried
@given(rows=several, bins=st.integers(1, 20), equal_mass=st.booleans(), hidden=st.integers(0, 49))
def test_so_it_is_for_several_classes(
    rows: list[tuple[int, int, int, int]], bins: int, equal_mass: bool, hidden: int
) -> None:
    truth = np.eye(3)[[row[0] for row in rows]]
    p = np.array([row[1:] for row in rows], dtype=np.float64)
    p /= p.sum(axis=1, keepdims=True)
    top, right = p.max(axis=1), (np.argmax(p, axis=1) == np.argmax(truth, axis=1)).astype(np.int64)
    whole = float(((p - truth) ** 2).sum(axis=1).mean())
    assert ece(right, top, bins=bins, equal_mass=equal_mass) ** 2 <= whole + 1e-12
    truth[hidden % len(rows), 1] = np.nan
    known = np.isfinite(truth)
    one_by_one = np.mean([brier(truth[known[:, k], k].astype(np.int64), p[known[:, k], k]) for k in range(3)])
    assert ece_class_wise(truth, p, bins=bins, equal_mass=equal_mass) ** 2 <= one_by_one + 1e-12


@unhurried
@given(rows=films, seed=st.integers(0, 99), equal_mass=st.booleans())
def test_the_order_of_the_films_is_of_no_consequence(rows: list[tuple[int, int]], seed: int, equal_mass: bool) -> None:
    y, p = _arrays(rows)
    order = np.random.default_rng(seed).permutation(len(y))
    assert ece(y[order], p[order], equal_mass=equal_mass) == pytest.approx(ece(y, p, equal_mass=equal_mass), abs=1e-12)


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


def _counted(rows: list[tuple[int, int]], seed: int) -> tuple[Judged, np.ndarray]:
    y, p = _arrays(rows)
    margins = np.round(p * 20 - 9)
    times = np.random.default_rng(seed).integers(0, 4, size=(3, len(y))).astype(np.float64)
    return Judged(y, margins, p, np.arange(len(y)).astype(str)), times


@unhurried
@given(rows=films, seed=st.integers(0, 99))
def test_a_weighted_figure_is_the_figure_of_repeated_films(rows: list[tuple[int, int]], seed: int) -> None:
    judged, times = _counted(rows, seed)
    scores, rate = scores_of(judged)(times), rates_at(judged, 0.5)(times)
    for b, row in enumerate(times):
        repeated = judged.take(np.repeat(np.arange(len(judged)), row.astype(int)))
        if not len(repeated):
            assert np.isnan(scores["brier"][b])
            continue
        for name, value in score_figures(repeated).items():
            assert scores[name][b] == pytest.approx(value, abs=1e-12, nan_ok=True), name
        for name, value in rates(confusion(repeated.labels, repeated.margins, 0.5)).items():
            assert rate[name][b] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_resampling_by_weights_is_resampling_by_films() -> None:
    rng = np.random.default_rng(5)
    patients = rng.integers(0, 30, 70).astype(str)
    y = rng.integers(0, 2, 70)
    margins = y + rng.normal(0, 1.5, 70)
    films = Judged(y, margins, 1 / (1 + np.exp(-margins)), patients)
    samples = patient_samples(patients, 60, seed=4)
    weights = np.concatenate(list(patient_weights(patients, 60, seed=4)))
    for sample, row in zip(samples, weights, strict=True):
        np.testing.assert_array_equal(np.bincount(sample, minlength=70), row)
    slow = [auroc(films.labels[s], films.margins[s]) for s in samples]
    quick = estimates(patients, scores_of(films), bootstraps=60, seed=4)["auroc"]
    assert quick.ci == pytest.approx(np.quantile(slow, (0.025, 0.975)))


def test_intervals_hold_the_value_and_widen_when_patients_repeat() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 300)
    margins = y + rng.normal(0, 1.2, 300)
    probability = 1 / (1 + np.exp(-margins))
    alone = Judged(y, margins, probability, np.arange(300).astype(str))
    found = estimates(alone.patients, scores_of(alone), bootstraps=200, seed=3)
    for estimate in found.values():
        assert estimate.ci is not None
    auc = found["auroc"]
    assert auc.ci is not None
    assert auc.ci[0] < auc.value < auc.ci[1]
    assert auc.value == pytest.approx(metrics.roc_auc_score(y, margins))
    ten = alone.take(np.repeat(np.arange(300), 10))
    clustered = estimates(ten.patients, scores_of(ten), bootstraps=200, seed=3)["auroc"]
    assert clustered.ci == pytest.approx(auc.ci)  # copies of a film are no new patients


def test_a_figure_that_cannot_be_computed_is_left_out() -> None:
    one_class = Judged(np.ones(4, np.int64), np.arange(4.0), np.linspace(0.2, 0.8, 4), np.array(list("abcd")))
    found = estimates(one_class.patients, scores_of(one_class), bootstraps=20, seed=0)
    assert "auroc" not in found
    assert "brier" in found
    found = estimates(one_class.patients, rates_at(one_class, 0.5), bootstraps=20, seed=0)
    assert "specificity" not in found
    assert found["sensitivity"].value == 0.75


def _scored(task: Task, outputs: tuple[str, ...], seed: int, n: int = 90, name: str = "x") -> Scored:
    rng = np.random.default_rng(seed)
    k = len(outputs)
    truth = np.eye(k)[rng.integers(0, k, n)] if task == "multiclass" else (rng.random((n, k)) < 0.4).astype(float)
    return Scored(
        name=name,
        task=task,
        outputs=outputs,
        targets=truth,
        logits=2 * truth + rng.normal(0, 1.5, (n, k)),
        patients=(np.arange(n) // 2).astype(str),
        sources=np.array(["s"] * n),
        paths=np.array([f"{i:03}" for i in range(n)]),
    )


def test_macro_figures_equal_scikit_learn() -> None:
    films = _scored("multiclass", ("a", "b", "c"), seed=0)
    p = np.exp(films.logits) / np.exp(films.logits).sum(axis=1, keepdims=True)
    truth = np.argmax(films.targets, axis=1)
    assert macro(films, NONE) == pytest.approx(metrics.roc_auc_score(truth, p, multi_class="ovr", average="macro"))
    assert macro(films, NONE, "auprc") == pytest.approx(
        metrics.average_precision_score(films.targets, p, average="macro")
    )
    assert macro(films, NONE, "brier") == pytest.approx(float(((p - films.targets) ** 2).mean()))


def test_unknown_truths_and_classes_without_a_positive_do_not_count() -> None:
    films = _scored("multilabel", ("a", "b", "c"), seed=1)
    truth = films.targets.copy()
    truth[:30, 0] = np.nan
    truth[:, 2] = 0.0
    films = replace(films, targets=truth)
    a = metrics.roc_auc_score(truth[30:, 0], films.logits[30:, 0])
    b = metrics.roc_auc_score(truth[:, 1], films.logits[:, 1])
    assert macro(films, NONE) == pytest.approx((a + b) / 2)
    found = estimates(films.patients, class_scores(films, NONE), bootstraps=20, seed=0)
    assert "c/auroc" not in found
    assert found["c/brier"].value > 0
    assert found["macro/brier"].value == pytest.approx(np.mean([found[f"{o}/brier"].value for o in "abc"]))


def test_a_paired_difference_is_the_difference_of_figures_and_narrower_than_either() -> None:
    a = _scored("binary", ("sick",), seed=2, n=300)
    b = replace(a, logits=a.logits + np.random.default_rng(9).normal(0, 0.2, a.logits.shape))
    shuffled = b.take(np.random.default_rng(1).permutation(300))
    found = paired_difference(a, shuffled, "auroc", bootstraps=200, seed=0)
    assert found == paired_difference(a, b, "auroc", bootstraps=200, seed=0)  # matched by path, not by place
    assert found.value == pytest.approx(macro(a, NONE) - macro(b, NONE))
    alone = estimates(a.patients, class_scores(a, NONE, ("auroc",)), bootstraps=200, seed=0)["macro/auroc"]
    assert found.ci is not None
    assert alone.ci is not None
    assert found.ci[1] - found.ci[0] < (alone.ci[1] - alone.ci[0]) / 2
    same = paired_difference(a, a, "sick/brier", bootstraps=20, seed=0)
    assert (same.value, same.ci) == (0.0, (0.0, 0.0))


def test_other_films_or_truths_are_not_compared() -> None:
    a = _scored("binary", ("sick",), seed=2)
    with pytest.raises(ConfigurationError, match="not the same films"):
        paired_difference(a, a.take(np.arange(80)), bootstraps=20)
    with pytest.raises(ConfigurationError, match="other truths"):
        paired_difference(a, replace(a, targets=1 - a.targets), bootstraps=20)


def test_the_interval_of_a_calibration_error_holds_it_though_resampling_raises_it() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 300)
    films = Judged((rng.random(300) < p).astype(np.int64), np.log(p / (1 - p)), p, np.arange(300).astype(str))
    resampled = [ece(films.labels[s], p[s]) for s in patient_samples(films.patients, 200, seed=0)]
    found = estimates(films.patients, scores_of(films), bootstraps=200, seed=0)["ece"]
    assert np.mean(resampled) > found.value * 1.2  # what resampling adds
    assert found.ci is not None
    width = np.diff(np.quantile(resampled, (0.025, 0.975)))[0]
    assert found.ci[1] - found.ci[0] == pytest.approx(width, abs=1e-9)
    assert found.ci[0] < found.value < found.ci[1]


@pytest.mark.parametrize(
    ("name", "moved"),
    [("ece", True), ("a/ece", True), ("x :: macro/ece_equal_width", True), ("x :: ece|after", True),
     ("auroc", False), ("x :: macro/brier", False), ("x :: price|recall", False), ("x :: piece|sensitivity", False)],
)  # fmt: skip
def test_only_calibration_errors_are_moved(name: str, moved: bool) -> None:
    def skewed(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: weights.max(axis=1) + 1.0}  # 2 for the films as they are, more in any replicate

    [estimate] = estimates(np.arange(50).astype(str), skewed, bootstraps=50, seed=0).values()
    assert estimate.ci is not None
    assert (estimate.ci[0] < estimate.value) == moved


def test_a_bootstrap_of_fifteen_sets_is_drawn_in_blocks() -> None:
    patients = np.arange(9000).astype(str)
    blocks = [len(weights) for weights in patient_weights(patients, 1000, seed=0)]
    assert sum(blocks) == 1000
    assert max(blocks) * 9000 <= 4_000_000
