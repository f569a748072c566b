from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from app.bundle.manifest import IsotonicCalibration, PlattCalibration, TemperatureCalibration
from training.judging.calibrate import choose, fit_calibrators
from training.judging.figures import nll
from training.judging.judge import Scored


def _films(slope: float, intercept: float, n: int = 4000, seed: int = 0) -> Scored:
    """Films whose true log-odds are slope * logit + intercept."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, n)
    labels = (rng.random(n) < expit(slope * logits + intercept)).astype(np.int64)
    return Scored("x", labels, logits, np.arange(n).astype(str), np.array(["f"] * n))


def test_the_temperature_is_found() -> None:
    films = _films(0.5, 0.0)
    found = fit_calibrators(films.logits, films.labels)["temperature"]
    assert isinstance(found, TemperatureCalibration)
    assert found.temperature == pytest.approx(2.0, rel=0.08)
    here = nll(films.labels, films.judged(found).probability)
    for t in (0.98, 1.02):
        other = TemperatureCalibration(method="temperature", temperature=found.temperature * t)
        assert here < nll(films.labels, films.judged(other).probability)


def test_platt_equals_logistic_regression() -> None:
    films = _films(0.7, -1.0)
    found = fit_calibrators(films.logits, films.labels)["platt"]
    assert isinstance(found, PlattCalibration)
    reference = LogisticRegression(C=np.inf).fit(films.logits[:, None], films.labels)
    assert found.slope[0] == pytest.approx(reference.coef_[0, 0], abs=2e-3)  # Platt's targets differ by 1 / N
    assert found.intercept[0] == pytest.approx(reference.intercept_[0], abs=2e-3)


def test_isotonic_is_monotone_and_never_certain() -> None:
    films = _films(1.0, 0.0, n=500)
    found = fit_calibrators(films.logits, films.labels)["isotonic"]
    assert isinstance(found, IsotonicCalibration)
    shown = films.judged(found).probability
    assert np.all(np.diff(shown[np.argsort(films.logits)]) >= 0)
    assert shown.min() >= 0.001
    assert shown.max() <= 0.999


def test_a_reversed_network_gets_no_platt_and_a_constant_one_no_curve() -> None:
    films = _films(-1.0, 0.0)
    found = fit_calibrators(films.logits, films.labels)
    assert list(found) == ["none", "temperature"]


@pytest.mark.parametrize(
    ("slope", "intercept", "wanted"), [(1.0, 0.0, "none"), (0.4, 0.0, "temperature"), (0.5, -2.0, "platt")]
)
def test_the_simplest_that_is_not_clearly_worse_is_chosen(slope: float, intercept: float, wanted: str) -> None:
    fitted, other = _films(slope, intercept, seed=1), _films(slope, intercept, seed=2)
    choice = choose(fit_calibrators(fitted.logits, fitted.labels), other, bootstraps=200, seed=0)
    assert choice.method == wanted
    assert set(choice.scores) == {"none", "temperature", "platt", "isotonic"}
    assert choice.calibration.method == wanted


def test_margins_and_probabilities_are_the_services_own() -> None:
    films = _films(1.0, 0.0, n=5)
    judged = films.judged(TemperatureCalibration(method="temperature", temperature=2.0))
    assert judged.margins == pytest.approx(films.logits / 2)
    assert judged.probability == pytest.approx(expit(films.logits / 2))
    platt = films.judged(PlattCalibration(method="platt", slope=(2.0,), intercept=(1.0,)))
    assert platt.margins == pytest.approx(films.logits)
    assert platt.probability == pytest.approx(expit(2 * films.logits + 1))
