"""Calibrators, fitted on one half of the validation and chosen on the other by a proper score.

Candidates from simple to complex: none; temperature, one for all logits (Guo et al. 2017); vector_temperature, one per logit;
Platt (1999) and isotonic (Zadrozny & Elkan 2002), one curve per margin. The margin of a class of several is its logit against all
the others (`app.decision.margins`), so that the last two are one against the rest.

The lowest mean negative log-likelihood (or Brier score) of the shown probabilities on the choosing half wins, unless a simpler one is
not clearly worse: the simplest whose 95 % bootstrap interval (by patients) of the difference to the best reaches zero is taken. Every
class of every film counts alike, one against the rest, as the classes are shown; pairs of unknown truth are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.isotonic import IsotonicRegression

from app.bundle.manifest import (
    Calibration,
    Estimate,
    IsotonicCalibration,
    IsotonicCurve,
    NoCalibration,
    PlattCalibration,
    TemperatureCalibration,
    VectorTemperatureCalibration,
)
from training.judging import weighted
from training.judging.figures import class_scores, estimates
from training.judging.scored import Floats, Scored
from training.judging.spec import Calibrator
from training.judging.weighted import Labels

NONE = NoCalibration(method="none")
_RANGE = (-np.log(20), np.log(20))  # of the logarithm of a temperature
_SLOPES = (1 / 20, 20.0)


class Candidate(BaseModel):
    """A calibrator with its figures on the choosing half: mean over classes and films, and the mean class-wise calibration error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibration: Calibration
    nll: Estimate
    brier: Estimate
    ece: Estimate


class Choice(BaseModel):
    """The calibrator taken, in words why, and every candidate, simple to complex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Calibrator
    calibration: Calibration
    why: str
    candidates: dict[Calibrator, Candidate]


def fit_calibrators(films: Scored, methods: Sequence[Calibrator]) -> dict[Calibrator, Calibration]:
    """The wanted candidates that the manifest accepts, in the order asked for.

    Platt drops out with a slope that is not positive, isotonic with a flat curve, for any logit, and both where a logit has films of one
    truth only; the latter's own temperature falls back to the common one. Labels of a multilabel recipe stand by themselves, and one
    thin label must not take the curves of all others away: there Platt's slopes are kept within the range of the temperatures, and a
    label of one truth gets the probability that so many films without a counterexample allow.
    """
    found: dict[Calibrator, Calibration | None] = {}
    for method in methods:
        found[method] = _FITS[method](films)
    return {method: calibration for method, calibration in found.items() if calibration is not None}


def choose(
    candidates: Mapping[Calibrator, Calibration], half: Scored, *, by: str = "nll", bootstraps: int, seed: int
) -> Choice:
    """Take the simplest candidate that is not clearly worse than the best on `half`. `candidates` is ordered simple to complex.

    by: `nll` or `brier`.
    """
    known = np.isfinite(half.targets)
    pairs = known.sum(axis=1).astype(np.float64)
    losses = {name: _losses(half, calibration, by) for name, calibration in candidates.items()}
    means = {name: float(loss.sum() / pairs.sum()) for name, loss in losses.items()}
    best = min(means, key=lambda name: means[name])

    def differences(weights: Floats) -> dict[str, Floats]:
        count = weights @ pairs
        return {name: weighted.divided(weights @ (loss - losses[best]), count) for name, loss in losses.items()}

    worse = estimates(half.patients, differences, bootstraps=bootstraps, seed=seed)
    taken = next(name for name in candidates if name == best or _low(worse[name]) <= 0)
    listed = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
    score = {"nll": "negative log-likelihood", "brier": "Brier score"}[by]
    return Choice(
        method=taken,
        calibration=candidates[taken],
        why=f"simplest whose {score} is not clearly above the best ({best}): {listed}",
        candidates={
            name: _candidate(half, calibration, bootstraps=bootstraps, seed=seed)
            for name, calibration in candidates.items()
        },
    )


def _candidate(half: Scored, calibration: Calibration, *, bootstraps: int, seed: int) -> Candidate:
    pairs = np.isfinite(half.targets).sum(axis=1).astype(np.float64)
    losses = {by: _losses(half, calibration, by) for by in ("nll", "brier")}
    classes = class_scores(half, calibration, ("ece",))

    def figures(weights: Floats) -> dict[str, Floats]:
        found = {by: weighted.divided(weights @ loss, weights @ pairs) for by, loss in losses.items()}
        return found | {"ece": classes(weights)["macro/ece"]}

    found = estimates(half.patients, figures, bootstraps=bootstraps, seed=seed)
    return Candidate(calibration=calibration, **found)


def _losses(half: Scored, calibration: Calibration, by: str) -> Floats:
    """Each film's loss, summed over the classes whose truth is known: float64 [N]."""
    known = np.isfinite(half.targets)
    loss = weighted.log_losses if by == "nll" else weighted.squared_errors
    each = loss(np.where(known, half.targets, 0).astype(np.int64), half.probability(calibration))
    return np.asarray(np.where(known, each, 0.0).sum(axis=1))


def _low(difference: Estimate) -> float:
    return difference.value if difference.ci is None else difference.ci[0]


def _temperature(films: Scored) -> TemperatureCalibration:
    return TemperatureCalibration(method="temperature", temperature=float(_temperatures(films, 1)[0]))


def _vector_temperature(films: Scored) -> VectorTemperatureCalibration | None:
    """Of a single logit it would be the temperature over again."""
    if len(films.outputs) == 1:
        return None
    found = _temperatures(films, len(films.outputs))
    return VectorTemperatureCalibration(method="vector_temperature", temperatures=tuple(map(float, found)))


def _temperatures(films: Scored, n: int) -> Floats:
    """argmin over n temperatures (one, or one per logit) of the mean log-loss; searched in log T within [1/20, 20].

    multiclass: of the softmax; binary and multilabel: of each logit by itself. Logits with films of one truth only are left out, and
    get the common temperature.
    """
    if films.task == "multiclass":
        truth = np.argmax(films.targets, axis=1)
        return _search(lambda t: _softmax_loss(films.logits / t, truth), n)
    columns = [_column(films, films.logits, k) for k in range(len(films.outputs))]
    two_sided = [column for column in columns if column is not None]
    if not two_sided:
        return np.ones(n)
    logits, labels = (np.concatenate(parts) for parts in zip(*two_sided, strict=True))
    common = _search(lambda t: _log_loss(logits / t, labels), 1)
    if n == 1:
        return common
    own = [common if c is None else _search(lambda t, c=c: _log_loss(c[0] / t, c[1]), 1) for c in columns]  # type: ignore[misc]
    return np.concatenate(own)


def _search(loss: Callable[[Floats], float], n: int) -> Floats:
    found = minimize(lambda t: loss(np.exp(t)), x0=np.zeros(n), bounds=[_RANGE] * n, method="L-BFGS-B")
    return np.exp(np.asarray(found.x, dtype=np.float64))


def _softmax_loss(scaled: Floats, truth: NDArray[np.intp]) -> float:
    return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(truth)), truth]))


def _log_loss(margin: Floats, labels: Labels) -> float:
    return float(np.mean(np.logaddexp(0, np.where(labels == 1, -margin, margin))))


def _column(films: Scored, values: Floats, output: int) -> tuple[Floats, Labels] | None:
    """Values and truths of the films whose truth for the output is known; None where they are of one truth."""
    known = np.isfinite(films.targets[:, output])
    labels = films.targets[known, output].astype(np.int64)
    return (values[known, output], labels) if len(np.unique(labels)) == 2 else None


def _columns(films: Scored) -> list[tuple[Floats, Labels]] | None:
    """One against the rest, on margins without a temperature; None where a logit cannot be fitted."""
    margins = films.margins(NONE)
    found = [_column(films, margins, k) for k in range(len(films.outputs))]
    fitted = [column for column in found if column is not None]
    return fitted if len(fitted) == len(found) else None


def _platt(films: Scored) -> PlattCalibration | None:
    copies = len(films) / max(1, len(np.unique(films.paths)))
    if films.task == "multilabel":
        known = np.isfinite(films.targets)
        columns = [(films.logits[seen, k], films.targets[seen, k].astype(np.int64)) for k, seen in enumerate(known.T)]
        pairs = [_platt_pair(*c, copies, _SLOPES) if len(c[1]) else (1.0, 0.0) for c in columns]
    else:
        pairs = [_platt_pair(*column, copies) for column in _columns(films) or ()]
    if not pairs or any(slope <= 0 for slope, _ in pairs):
        return None
    return PlattCalibration(
        method="platt", slope=tuple(slope for slope, _ in pairs), intercept=tuple(intercept for _, intercept in pairs)
    )


def _platt_pair(
    margins: Floats, labels: Labels, copies: float, slopes: tuple[float | None, float | None] = (None, None)
) -> tuple[float, float]:
    """argmin over (slope, intercept) of the log-loss, with Platt's targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2).

    copies: how often each film stands among them (clean and corrupted): N+ and N- count films. slopes: bounds.
    """
    positives = float(labels.sum()) / copies
    negatives = len(labels) / copies - positives
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: Floats) -> float:
        shifted = parameters[0] * margins + parameters[1]
        return float(np.mean(np.logaddexp(0, shifted) - target * shifted))

    found = minimize(loss, x0=[1.0, 0.0], bounds=[slopes, (None, None)], method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])


def _isotonic(films: Scored) -> IsotonicCalibration | None:
    copies = len(films) / max(1, len(np.unique(films.paths)))
    curves = [_curve(*column, copies) for column in _columns(films) or ()]
    kept = tuple(curve for curve in curves if curve is not None)
    return IsotonicCalibration(method="isotonic", curves=kept) if kept and len(kept) == len(curves) else None


def _curve(margins: Floats, labels: Labels, copies: float) -> IsotonicCurve | None:
    """Pool-adjacent-violators; probabilities kept in [1/2N, 1 - 1/2N], since no sample of N films shows a certainty."""
    fitted = IsotonicRegression().fit(margins, labels)
    x, y = np.asarray(fitted.X_thresholds_, float), np.asarray(fitted.y_thresholds_, float)
    edge = min(0.5, 0.5 * copies / len(labels))
    y = np.clip(y, edge, 1 - edge)
    keep = np.r_[True, np.diff(x) > 0]
    x, y = x[keep], np.maximum.accumulate(y[keep])
    if len(x) < 2 or y[-1] <= y[0]:
        return None
    return IsotonicCurve(margins=tuple(map(float, x)), probabilities=tuple(map(float, y)))


_FITS: dict[Calibrator, Callable[[Scored], Calibration | None]] = {
    "none": lambda _: NONE,
    "temperature": _temperature,
    "vector_temperature": _vector_temperature,
    "platt": _platt,
    "isotonic": _isotonic,
}
