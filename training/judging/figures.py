"""Figures of classifiers, and their intervals by patients.

The arithmetic of one yes-or-no question stands in `training.judging.weighted`; this module asks it of films, of several classes, and
of resampled patients. Films of one patient are not independent, so intervals resample patients, not films.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Calibration, Estimate, NoCalibration
from app.errors import ConfigurationError
from training.judging import weighted
from training.judging.weighted import BINS, Floats, Labels

if TYPE_CHECKING:
    from training.judging.scored import Scored


SCORES = ("auroc", "auprc", "brier", "nll", "ece", "ece_equal_width")
Replicated = Callable[[Floats], Mapping[str, Floats]]  # weights [B, N] -> figures [B] by name
Measure = Callable[[Floats], Floats]  # weights [B, N] -> one figure [B]
_ABSOLUTE = re.compile(r"(^|[/| ])ece(_[a-z_]+)?([|]|$)")  # names of calibration errors
READ_OFF = "sensitivity_at_90_specificity"  # on the films it is read from, so a little too good: no operating point
_CELLS = 4_000_000  # entries of a weight matrix held at once: 32 MB


_NONE = NoCalibration(method="none")


@dataclass(frozen=True)
class Judged:
    """Films with their truth. labels: int64 [N], 1 = positive; margins, probability: float64 [N]; patients: str [N]."""

    labels: Labels
    margins: Floats
    probability: Floats
    patients: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Judged:
        return Judged(self.labels[chosen], self.margins[chosen], self.probability[chosen], self.patients[chosen])


def auroc(labels: Labels, scores: Floats) -> float:
    """Probability that a positive film scores above a negative one, ties counting half (Mann-Whitney). nan for one class."""
    return float(weighted.auroc(_once(labels), labels, scores)[0])


def auprc(labels: Labels, scores: Floats) -> float:
    """Average precision: sum over distinct scores of (recall step) * precision, no interpolation. nan without positives."""
    return float(weighted.auprc(_once(labels), labels, scores)[0])


def brier(labels: Labels, probability: Floats) -> float:
    """Mean squared difference of probability and truth (positive class only, so at most 1; Brier 1950 counts every class)."""
    return float(np.mean(weighted.squared_errors(labels, probability)))


def nll(labels: Labels, probability: Floats) -> float:
    """Mean negative log-likelihood in nats, probabilities kept in [1e-7, 1 - 1e-7]."""
    return float(np.mean(weighted.log_losses(labels, probability)))


def ece(labels: Labels, probability: Floats, *, bins: int = BINS, equal_mass: bool = True) -> float:
    """Expected calibration error of the positive class: sum over bins of (share of films) * |mean probability - positive rate|.

    By Jensen's inequality ECE^2 <= Brier for any bins, which a property test holds it to.
    """
    measure = weighted.ece_equal_mass if equal_mass else weighted.ece_equal_width
    return float(measure(_once(labels), labels, probability, bins)[0])


def ece_top_label(labels: Labels, probability: Floats, *, bins: int = BINS, equal_mass: bool = True) -> float:
    """The same for the winning class: confidence max(p, 1 - p) against whether the winner (p >= 0.5) is right."""
    right, confidence = top_label(labels, probability)
    return ece(right, confidence, bins=bins, equal_mass=equal_mass)


def top_label(labels: Labels, probability: Floats) -> tuple[Labels, Floats]:
    """Binary: whether the winning class (p >= 0.5) is right, int64 [N], and its probability, float64 [N]."""
    winner = probability >= 0.5
    return (winner == (labels == 1)).astype(np.int64), np.where(winner, probability, 1 - probability)


def ece_class_wise(truth: Floats, probability: Floats, *, bins: int = BINS, equal_mass: bool = True) -> float:
    """Mean over the classes of each class's calibration error, one against the rest.

    truth: float64 [N, K], nan where unknown; classes without a known film are left out. Its square too is at most the mean Brier score
    of the classes.
    """
    known = np.isfinite(truth)
    parts = [
        ece(truth[known[:, k], k].astype(np.int64), probability[known[:, k], k], bins=bins, equal_mass=equal_mass)
        for k in range(truth.shape[1])
        if known[:, k].any()
    ]
    return float(np.mean(parts)) if parts else float("nan")


def _once(labels: Labels) -> Floats:
    return np.ones((1, len(labels)))


def confusion(labels: Labels, margins: Floats, threshold: float) -> dict[str, int]:
    """tp, fp, tn, fn; a margin equal to the threshold counts as positive, as in `app.decision`."""
    found = weighted.counts(_once(labels), labels == 1, margins >= threshold)
    return {name: int(value[0]) for name, value in found.items()}


def rates(counts: Mapping[str, int]) -> dict[str, float]:
    """Everything that follows from a confusion matrix; nan where a denominator is zero."""
    cells = {name: np.array([float(counts[name])]) for name in ("tp", "fp", "tn", "fn")}
    found = {name: float(value[0]) for name, value in weighted.rates(**cells).items()}
    right, total = counts["tp"] + counts["tn"], sum(counts[name] for name in cells)
    found["accuracy"] = right / total if total else float("nan")
    return found | {"balanced_accuracy": (found["sensitivity"] + found["specificity"]) / 2}


def _equal_mass(films: Judged) -> Measure:
    return lambda weights: weighted.ece_equal_mass(weights, films.labels, films.probability)


def _equal_width(films: Judged) -> Measure:
    return lambda weights: weighted.ece_equal_width(weights, films.labels, films.probability)


def _top_label(films: Judged) -> Measure:
    right, confidence = top_label(films.labels, films.probability)
    return lambda weights: weighted.ece_equal_mass(weights, right, confidence)


def _mean_of(losses: Callable[[Labels, Floats], Floats]) -> Callable[[Judged], Measure]:
    def of(films: Judged) -> Measure:
        values = losses(films.labels, films.probability)
        return lambda weights: weighted.mean(weights, values)

    return of


MEASURES: dict[str, Callable[[Judged], Measure]] = {
    "auroc": lambda films: lambda weights: weighted.auroc(weights, films.labels, films.margins),
    "auprc": lambda films: lambda weights: weighted.auprc(weights, films.labels, films.margins),
    READ_OFF: lambda films: lambda weights: weighted.sensitivity_at(weights, films.labels, films.margins, 0.9),
    "brier": _mean_of(weighted.squared_errors),
    "nll": _mean_of(weighted.log_losses),
    "ece": _equal_mass,
    "ece_equal_width": _equal_width,
    "ece_top_label": _top_label,
}


def scores_of(films: Judged, names: Sequence[str] = tuple(MEASURES)) -> Replicated:
    """Threshold-free figures of one class: discrimination from margins, the rest from probabilities."""
    found = {name: MEASURES[name](films) for name in names}
    return lambda weights: {name: measure(weights) for name, measure in found.items()}


def score_figures(films: Judged) -> dict[str, float]:
    """`scores_of`, each film once; nan where a figure cannot be computed."""
    return {name: float(value[0]) for name, value in scores_of(films)(_once(films.labels)).items()}


def rates_at(films: Judged, threshold: float) -> Replicated:
    """Figures of one operating point of one class: `rates`."""

    def figures(weights: Floats) -> dict[str, Floats]:
        cells = weighted.counts(weights, films.labels == 1, films.margins >= threshold)
        found = weighted.rates(**cells)
        found["accuracy"] = weighted.divided(cells["tp"] + cells["tn"], weights.sum(axis=1))
        return found | {"balanced_accuracy": (found["sensitivity"] + found["specificity"]) / 2}

    return figures


def estimates(patients: NDArray[np.str_], figures: Replicated, *, bootstraps: int, seed: int) -> dict[str, Estimate]:
    """Each figure with its 95 % percentile interval over resampled patients (nan replicates left out).

    A calibration error (a figure whose last name begins with `ece`) is a sum of absolute values: the noise that resampling adds to
    the bins can only raise it, and the plain interval can lie wholly above the figure. Its replicates are therefore moved so that
    their mean is the figure, and never below zero. A figure that cannot be computed (nan) is not in the result; one without a single
    finite replicate has no interval.
    """
    values = figures(np.ones((1, len(patients))))
    drawn: dict[str, list[Floats]] = {name: [] for name in values}
    for weights in patient_weights(patients, bootstraps, seed):
        for name, replicates in figures(weights).items():
            drawn[name].append(replicates)
    found = {}
    for name, value in values.items():
        if np.isfinite(value[0]):
            absolute = _ABSOLUTE.search(name) is not None
            found[name] = _estimate(float(value[0]), np.concatenate(drawn[name]), absolute=absolute)
    return found


def _estimate(value: float, replicates: Floats, *, absolute: bool) -> Estimate:
    kept = replicates[np.isfinite(replicates)]
    if not len(kept):
        return Estimate(value=value)
    if absolute:
        moved = kept - kept.mean() + value
        kept = np.maximum(moved, 0.0) if kept.min() >= 0 else moved
    low, high = (float(q) for q in np.quantile(kept, (0.025, 0.975)))
    return Estimate(value=value, ci=(low, high))


def patient_weights(patients: NDArray[np.str_], n: int, seed: int) -> Iterator[Floats]:
    """How often each film counts in n resamples: patients drawn with replacement, every film of a drawn patient included.

    Yields float64 [b, N] in blocks of at most 32 MB, n rows in all; the same draws as `patient_samples`.
    """
    _, inverse = np.unique(patients, return_inverse=True)
    total = int(inverse.max()) + 1
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // len(patients))
    for start in range(0, n, block):
        rows = min(block, n - start)
        drawn = [np.bincount(rng.integers(total, size=total), minlength=total) for _ in range(rows)]
        yield np.stack(drawn).astype(np.float64)[:, inverse]


def patient_samples(patients: NDArray[np.str_], n: int, seed: int) -> list[NDArray[np.intp]]:
    """The same n resamples as film indices, for figures that are not written for weights."""
    _, inverse = np.unique(patients, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(inverse.max() + 2))
    members = [order[a:b] for a, b in pairwise(starts)]
    rng = np.random.default_rng(seed)
    return [np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))]) for _ in range(n)]


def class_scores(films: Scored, calibration: Calibration, names: Sequence[str] = SCORES) -> Replicated:
    """`<class>/<figure>` of each output, one against the rest, and `macro/<figure>`, their mean; weights of all N films.

    A class counts only the films whose truth for it is known. The mean is over the classes that have a value on the films as they
    are; a replicate in which one of them has none has no mean either.
    """
    outputs = [o for k, o in enumerate(films.outputs) if np.isfinite(films.targets[:, k]).any()]
    parts = {o: _one_class(films, calibration, films.outputs.index(o), names) for o in outputs}
    plain = {o: part(np.ones((1, len(films)))) for o, part in parts.items()}

    def figures(weights: Floats) -> dict[str, Floats]:
        found = {f"{o}/{name}": value for o, part in parts.items() for name, value in part(weights).items()}
        for name in names:
            counted = [found[f"{o}/{name}"] for o in outputs if np.isfinite(plain[o][name][0])]
            found[f"macro/{name}"] = np.mean(counted, axis=0) if counted else np.full(len(weights), np.nan)
        return found

    return figures


def _one_class(films: Scored, calibration: Calibration, output: int, names: Sequence[str]) -> Replicated:
    known = np.flatnonzero(np.isfinite(films.targets[:, output]))
    figures = scores_of(films.judged(calibration, output), names)
    return figures if len(known) == len(films) else lambda weights: figures(weights[:, known])


def macro(films: Scored, calibration: Calibration, name: str = "auroc") -> float:
    """Mean of a figure over the classes that have one; nan where none has."""
    return float(class_scores(films, calibration, (name,))(np.ones((1, len(films))))[f"macro/{name}"][0])


def paired_difference(
    a: Scored,
    b: Scored,
    figure: str = "auroc",
    *,
    calibrations: tuple[Calibration, Calibration] = (_NONE, _NONE),
    bootstraps: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`figure` of a less that of b on the same films, with its 95 % interval: both are resampled alike, by patients.

    figure: a name of `MEASURES`, the macro mean over the classes; or `<class>/<figure>`. calibrations: what makes the probabilities
    of a and of b; they matter for Brier, NLL and calibration errors only (and, of several classes, temperatures move the order).
    Raises ConfigurationError where the films or the classes differ.
    """
    if sorted(a.paths) != sorted(b.paths) or a.outputs != b.outputs or len(set(a.paths)) != len(a):
        raise ConfigurationError("different_films", f"{a.name} and {b.name} are not the same films and classes")
    b = b.take(np.argsort(b.paths)[np.argsort(np.argsort(a.paths))])
    if not np.array_equal(a.targets, b.targets, equal_nan=True):
        raise ConfigurationError("different_films", f"{a.name} and {b.name} hold other truths for the same films")
    key, name = (figure, figure.split("/")[1]) if "/" in figure else (f"macro/{figure}", figure)
    first, second = (class_scores(s, c, (name,)) for s, c in zip((a, b), calibrations, strict=True))
    found = estimates(
        a.patients, lambda weights: {key: first(weights)[key] - second(weights)[key]}, bootstraps=bootstraps, seed=seed
    )
    if key not in found:
        raise ConfigurationError("no_figure", f"{figure} has no value on {a.name}: a class is missing there")
    return found[key]


def join(parts: Sequence[Judged]) -> Judged:
    """The films of several sets one after another."""
    return Judged(
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.margins for p in parts]),
        np.concatenate([p.probability for p in parts]),
        np.concatenate([p.patients for p in parts]),
    )
