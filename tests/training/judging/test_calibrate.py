from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from app.bundle.manifest import (
    Calibration,
    IsotonicCalibration,
    PlattCalibration,
    TemperatureCalibration,
    VectorTemperatureCalibration,
)
from tests.training.judging.synthetic import scored, softmax_films
from training.judging.calibrate import NONE, choose, fit_calibrators
from training.judging.figures import nll
from training.judging.scored import Scored, mix
from training.judging.spec import Calibrator

METHODS: tuple[Calibrator, ...] = ("none", "temperature", "vector_temperature", "platt", "isotonic")


def _films(slope: float, intercept: float, n: int = 4000, seed: int = 0) -> Scored:
    """Films whose true log-odds are slope * logit + intercept."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, n)
    labels = (rng.random(n) < expit(slope * logits + intercept)).astype(np.int64)
    return scored(logits[:, None], labels[:, None])


def test_the_temperature_is_found() -> None:
    films = _films(0.5, 0.0)
    found = fit_calibrators(films, METHODS)["temperature"]
    assert isinstance(found, TemperatureCalibration)
    assert found.temperature == pytest.approx(2.0, rel=0.08)
    here = nll(films.judged(NONE).labels, films.judged(found).probability)
    for t in (0.98, 1.02):
        other = TemperatureCalibration(method="temperature", temperature=found.temperature * t)
        assert here < nll(films.judged(NONE).labels, films.judged(other).probability)


def test_platt_equals_logistic_regression() -> None:
    films = _films(0.7, -1.0)
    found = fit_calibrators(films, METHODS)["platt"]
    assert isinstance(found, PlattCalibration)
    reference = LogisticRegression(C=np.inf).fit(films.logits, films.judged(NONE).labels)
    assert found.slope[0] == pytest.approx(reference.coef_[0, 0], abs=2e-3)  # Platt's targets differ by 1 / N
    assert found.intercept[0] == pytest.approx(reference.intercept_[0], abs=2e-3)


def test_isotonic_is_monotone_and_never_certain() -> None:
    films = _films(1.0, 0.0, n=500)
    found = fit_calibrators(films, METHODS)["isotonic"]
    assert isinstance(found, IsotonicCalibration)
    shown = films.judged(found).probability
    assert np.all(np.diff(shown[np.argsort(films.logits[:, 0])]) >= 0)
    assert shown.min() >= 0.001
    assert shown.max() <= 0.999


def test_a_reversed_network_gets_no_platt_and_a_constant_one_no_curve() -> None:
    films = _films(-1.0, 0.0)
    found = fit_calibrators(films, METHODS)
    assert list(found) == ["none", "temperature"]


@pytest.mark.parametrize(
    ("slope", "intercept", "wanted"), [(1.0, 0.0, "none"), (0.4, 0.0, "temperature"), (0.5, -2.0, "platt")]
)
def test_the_simplest_that_is_not_clearly_worse_is_chosen(slope: float, intercept: float, wanted: str) -> None:
    fitted, other = _films(slope, intercept, seed=1), _films(slope, intercept, seed=2)
    choice = choose(fit_calibrators(fitted, METHODS), other, bootstraps=200, seed=0)
    assert choice.method == wanted
    assert list(choice.candidates) == ["none", "temperature", "platt", "isotonic"]
    for candidate in choice.candidates.values():
        assert candidate.nll.ci is not None
        assert candidate.nll.ci[0] < candidate.nll.value < candidate.nll.ci[1]
    assert choice.calibration.method == wanted


def test_margins_and_probabilities_are_the_services_own() -> None:
    films = _films(1.0, 0.0, n=5)
    judged = films.judged(TemperatureCalibration(method="temperature", temperature=2.0))
    assert judged.margins == pytest.approx(films.logits[:, 0] / 2)
    assert judged.probability == pytest.approx(expit(films.logits[:, 0] / 2))
    platt = films.judged(PlattCalibration(method="platt", slope=(2.0,), intercept=(1.0,)))
    assert platt.margins == pytest.approx(films.logits[:, 0])
    assert platt.probability == pytest.approx(expit(2 * films.logits[:, 0] + 1))


def test_a_single_logit_needs_no_vector_of_temperatures() -> None:
    assert "vector_temperature" not in fit_calibrators(_films(1.0, 0.0, n=200), METHODS)


def test_the_temperatures_of_a_softmax_are_found() -> None:
    films = softmax_films(4000, seed=0, temperatures=(0.5, 1.0, 3.0))
    found = fit_calibrators(films, METHODS)
    vector = found["vector_temperature"]
    assert isinstance(vector, VectorTemperatureCalibration)
    assert vector.temperatures == pytest.approx((0.5, 1.0, 3.0), rel=0.15)
    other = softmax_films(4000, seed=1, temperatures=(0.5, 1.0, 3.0))
    choice = choose(found, other, bootstraps=100, seed=0)
    assert choice.method == "vector_temperature"
    assert choice.candidates["vector_temperature"].ece.value < choice.candidates["none"].ece.value / 2


def test_one_temperature_for_all_is_taken_where_it_is_enough() -> None:
    fitted, other = (softmax_films(2000, seed=seed, temperatures=(2.5, 2.5, 2.5)) for seed in (0, 1))
    assert choose(fit_calibrators(fitted, METHODS), other, bootstraps=100, seed=0).method == "temperature"


def test_the_losses_are_of_every_class_against_the_rest() -> None:
    films = softmax_films(300, seed=3)
    candidate = choose({"none": NONE}, films, bootstraps=20, seed=0).candidates["none"]
    p = np.exp(films.logits) / np.exp(films.logits).sum(axis=1, keepdims=True)
    assert candidate.brier.value == pytest.approx(float(((p - films.targets) ** 2).mean()))
    expected = -np.where(films.targets == 1, np.log(p), np.log1p(-p)).mean()
    assert candidate.nll.value == pytest.approx(float(expected))


def test_brier_may_choose_instead() -> None:
    fitted, other = _films(0.5, -2.0, seed=1), _films(0.5, -2.0, seed=2)
    choice = choose(fit_calibrators(fitted, METHODS), other, by="brier", bootstraps=100, seed=0)
    assert choice.method == "platt"
    assert "Brier score" in choice.why


def _labels(seed: int, n: int = 1500) -> Scored:
    """Two labels with slopes 0.5 and 2, a tenth unknown; a third that no film shows."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 3))
    truth = (rng.random((n, 3)) < expit(logits * [0.5, 2.0, 1.0])).astype(np.float64)
    truth[rng.random((n, 3)) < 0.1] = np.nan
    truth[:, 2] = np.where(np.isfinite(truth[:, 2]), 0.0, np.nan)
    return scored(logits, truth, ("a", "b", "c"), task="multilabel")


def test_labels_have_temperatures_of_their_own_and_a_label_without_films_the_common_one() -> None:
    found = fit_calibrators(_labels(0), METHODS)
    assert list(found) == ["none", "temperature", "vector_temperature", "platt"]  # no curve for the third label
    one, vector = found["temperature"], found["vector_temperature"]
    assert isinstance(one, TemperatureCalibration)
    assert isinstance(vector, VectorTemperatureCalibration)
    assert vector.temperatures[:2] == pytest.approx((2.0, 0.5), rel=0.2)
    assert vector.temperatures[2] == pytest.approx(one.temperature)


def test_a_label_without_films_does_not_take_the_curves_of_the_others_away() -> None:
    films = _labels(0)
    platt = fit_calibrators(films, ("platt",))["platt"]
    assert isinstance(platt, PlattCalibration)
    for k in range(2):
        own = fit_calibrators(scored(films.logits[:, [k]], films.targets[:, [k]]), ("platt",))["platt"]
        assert isinstance(own, PlattCalibration)
        assert (platt.slope[k], platt.intercept[k]) == pytest.approx((own.slope[0], own.intercept[0]), rel=1e-2)
    shown = films.probability(platt)[:, 2]
    assert 0 < shown.min() <= 1 / (len(films) + 2) <= shown.max() < 0.01


def test_copies_of_a_film_are_no_further_films() -> None:
    films = _labels(0)
    one, sixteen = (fit_calibrators(s, ("platt",))["platt"] for s in (films, mix([films] * 16)))
    assert isinstance(one, PlattCalibration)
    assert isinstance(sixteen, PlattCalibration)
    assert sixteen.intercept == pytest.approx(one.intercept, rel=1e-3)
    films = _films(1.0, 0.0, n=100)
    curve, other = (fit_calibrators(s, ("isotonic",))["isotonic"] for s in (films, mix([films] * 16)))
    assert films.judged(curve).probability.min() == films.judged(other).probability.min() == pytest.approx(0.005)


def test_unknown_truths_neither_fit_nor_choose() -> None:
    films = _labels(1)
    known = np.isfinite(films.targets)
    moved = scored(np.where(known, films.logits, 50.0), films.targets, films.outputs, task="multilabel")
    one, other = (fit_calibrators(f, METHODS) for f in (films, moved))
    assert one == other
    here, there = (choose(one, f, bootstraps=20, seed=0).candidates for f in (films, moved))
    assert {m: c.nll for m, c in here.items()} == {m: c.nll for m, c in there.items()}


def test_platt_and_isotonic_of_several_classes_are_one_against_the_rest() -> None:
    films = softmax_films(800, seed=5)
    platt = fit_calibrators(films, METHODS)["platt"]
    assert isinstance(platt, PlattCalibration)
    for k in range(3):
        alone = scored(films.margins(NONE)[:, [k]], films.targets[:, [k]])
        own: Calibration = fit_calibrators(alone, ("platt",))["platt"]
        assert isinstance(own, PlattCalibration)
        assert (platt.slope[k], platt.intercept[k]) == pytest.approx((own.slope[0], own.intercept[0]))
