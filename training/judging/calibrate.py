"""Calibrators, fitted on one half of the validation and chosen on the other by a proper score.

Candidates from simple to complex: none, temperature (Guo et al. 2017), Platt (1999), isotonic (Zadrozny & Elkan 2002). The lowest
negative log-likelihood on the choosing half wins, unless a simpler one is not clearly worse: the simplest whose 95 % bootstrap
interval (by patients) of the difference to the best reaches zero is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from app.bundle.manifest import (
    Calibration,
    IsotonicCalibration,
    IsotonicCurve,
    NoCalibration,
    PlattCalibration,
    TemperatureCalibration,
)
from training.judging.figures import EPSILON, nll, patient_samples
from training.judging.judge import Scored

Floats = NDArray[np.float64]


def fit_calibrators(logits: Floats, labels: NDArray[np.int64]) -> dict[str, Calibration]:
    """Every candidate that the manifest accepts, simplest first. A negative Platt slope or a flat isotonic curve drops out."""
    found: dict[str, Calibration] = {
        "none": NoCalibration(method="none"),
        "temperature": TemperatureCalibration(method="temperature", temperature=_temperature(logits, labels)),
    }
    slope, intercept = _platt(logits, labels)
    if slope > 0:
        found["platt"] = PlattCalibration(method="platt", slope=(slope,), intercept=(intercept,))
    curve = _isotonic(logits, labels)
    if curve is not None:
        found["isotonic"] = IsotonicCalibration(method="isotonic", curves=(curve,))
    return found


@dataclass(frozen=True)
class Choice:
    """The calibrator taken, in words why, and the negative log-likelihood of every candidate on the choosing half."""

    method: str
    calibration: Calibration
    why: str
    scores: dict[str, float]


def choose(candidates: Mapping[str, Calibration], half: Scored, *, bootstraps: int, seed: int) -> Choice:
    """Take the simplest candidate that is not clearly worse than the best on `half`. `candidates` is ordered simple to complex."""
    shown = {name: half.judged(calibration).probability for name, calibration in candidates.items()}
    scores = {name: nll(half.labels, p) for name, p in shown.items()}
    best = min(scores, key=lambda name: scores[name])
    samples = patient_samples(half.patients, bootstraps, seed)
    for name in candidates:
        loss = _losses(half.labels, shown[name]) - _losses(half.labels, shown[best])
        low = float(np.quantile([loss[s].mean() for s in samples], 0.025))
        if name == best or low <= 0:
            listed = ", ".join(f"{n} {s:.4f}" for n, s in scores.items())
            why = f"simplest whose negative log-likelihood is not clearly above the best ({best}): {listed}"
            return Choice(name, candidates[name], why, scores)
    raise ValueError("there is no candidate")  # pragma: no cover  (the best always qualifies)


def _losses(labels: NDArray[np.int64], probability: Floats) -> Floats:
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    return -np.where(labels == 1, np.log(p), np.log1p(-p))


def _log_loss(margin: Floats, labels: NDArray[np.int64]) -> float:
    return float(np.mean(np.logaddexp(0, np.where(labels == 1, -margin, margin))))


def _temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """argmin over T of the log-loss of logits / T; searched in log T within [1/20, 20]."""
    found = minimize(
        lambda t: _log_loss(logits / np.exp(t[0]), labels),
        x0=[0.0],
        bounds=[(-np.log(20), np.log(20))],
        method="L-BFGS-B",
    )
    return float(np.exp(found.x[0]))


def _platt(logits: Floats, labels: NDArray[np.int64]) -> tuple[float, float]:
    """argmin over (slope, intercept) of the log-loss, with Platt's targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2)."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: Floats) -> float:
        margin = parameters[0] * logits + parameters[1]
        return float(np.mean(np.logaddexp(0, margin) - target * margin))

    found = minimize(loss, x0=[1.0, 0.0], method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])


def _isotonic(logits: Floats, labels: NDArray[np.int64]) -> IsotonicCurve | None:
    """Pool-adjacent-violators; probabilities kept in [1/2N, 1 - 1/2N], since no finite sample shows a certainty."""
    fitted = IsotonicRegression().fit(logits, labels)
    x, y = np.asarray(fitted.X_thresholds_, float), np.asarray(fitted.y_thresholds_, float)
    edge = 0.5 / len(labels)
    y = np.clip(y, edge, 1 - edge)
    keep = np.r_[True, np.diff(x) > 0]
    x, y = x[keep], np.maximum.accumulate(y[keep])
    if len(x) < 2 or y[-1] <= y[0]:
        return None
    return IsotonicCurve(margins=tuple(map(float, x)), probabilities=tuple(map(float, y)))
