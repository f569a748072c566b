"""The figures of a binary classifier, and their intervals by patients.

Formulas stand with each function and are tested against scikit-learn. Films of one patient are not independent, so intervals
resample patients, not films.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Estimate

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
EPSILON = 1e-7  # probabilities are kept this far from 0 and 1 inside a logarithm
BINS = 15


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
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n_pos = int(labels.sum())
    n_neg = len(labels) - n_pos
    if n_pos == 0 or n_neg == 0:
        return float("nan")
    return float((ranks[labels == 1].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def auprc(labels: Labels, scores: Floats) -> float:
    """Average precision: sum over distinct scores of (recall step) * precision, no interpolation. nan without positives."""
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.diff(scores[order]) != 0, True]
    hits = np.cumsum(labels[order])[last]
    shown = np.flatnonzero(last) + 1
    if hits[-1] == 0:
        return float("nan")
    return float(np.sum(np.diff(np.r_[0, hits]) / hits[-1] * (hits / shown)))


def brier(labels: Labels, probability: Floats) -> float:
    """Mean squared difference of probability and truth (positive class only, so at most 1; Brier 1950 counts both)."""
    return float(np.mean((probability - labels) ** 2))


def nll(labels: Labels, probability: Floats) -> float:
    """Mean negative log-likelihood in nats, probabilities kept in [1e-7, 1 - 1e-7]."""
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    return float(-np.mean(np.where(labels == 1, np.log(p), np.log1p(-p))))


def ece(labels: Labels, probability: Floats, *, bins: int = BINS, equal_mass: bool = True) -> float:
    """Expected calibration error of the positive class: sum over bins of (share of films) * |mean probability - positive rate|.

    By Jensen's inequality ECE^2 <= Brier for any bins, which a property test holds it to. Equal-mass bins hold equally many
    films (films of equal probability may be split by order of the sort, which is stable); equal-width bins split [0, 1].
    """
    if equal_mass:
        order = np.argsort(probability, kind="stable")
        parts = [part for part in np.array_split(order, bins) if len(part)]
    else:
        index = np.minimum((probability * bins).astype(int), bins - 1)
        parts = [np.flatnonzero(index == b) for b in range(bins) if np.any(index == b)]
    gaps = [len(p) * abs(probability[p].mean() - labels[p].mean()) for p in parts]
    return float(sum(gaps) / len(labels))


def ece_top_label(labels: Labels, probability: Floats, *, bins: int = BINS, equal_mass: bool = True) -> float:
    """The same for the winning class: confidence max(p, 1 - p) against whether the winner (p >= 0.5) is right."""
    winner = probability >= 0.5
    right = (winner == (labels == 1)).astype(np.int64)
    return ece(right, np.where(winner, probability, 1 - probability), bins=bins, equal_mass=equal_mass)


def confusion(labels: Labels, margins: Floats, threshold: float) -> dict[str, int]:
    """tp, fp, tn, fn; a margin equal to the threshold counts as positive, as in `app.decision`."""
    positive = margins >= threshold
    return {
        "tp": int(np.sum(positive & (labels == 1))),
        "fp": int(np.sum(positive & (labels == 0))),
        "tn": int(np.sum(~positive & (labels == 0))),
        "fn": int(np.sum(~positive & (labels == 1))),
    }


def rates(counts: Mapping[str, int]) -> dict[str, float]:
    """Everything that follows from a confusion matrix; nan where a denominator is zero."""
    tp, fp, tn, fn = (counts[k] for k in ("tp", "fp", "tn", "fn"))
    sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": _share(tp, tp + fp),
        "npv": _share(tn, tn + fn),
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "accuracy": _share(tp + tn, tp + tn + fp + fn),
        "balanced_accuracy": (sensitivity + specificity) / 2,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


Figures = Callable[[Judged], dict[str, float]]


def score_figures(films: Judged) -> dict[str, float]:
    """Threshold-free figures: discrimination from margins, the rest from probabilities."""
    y, p = films.labels, films.probability
    return {
        "auroc": auroc(y, films.margins),
        "auprc": auprc(y, films.margins),
        "brier": brier(y, p),
        "nll": nll(y, p),
        "ece": ece(y, p),
        "ece_equal_width": ece(y, p, equal_mass=False),
        "ece_top_label": ece_top_label(y, p),
    }


def point_figures(threshold: float) -> Figures:
    """Figures of one operating point."""
    return lambda films: rates(confusion(films.labels, films.margins, threshold))


def estimates(films: Judged, figures: Figures, *, bootstraps: int, seed: int) -> dict[str, Estimate]:
    """Each figure with its 95 % percentile interval over resampled patients (nan replicates left out).

    A figure that cannot be computed (nan) is not in the result.
    """
    values = figures(films)
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for sample in patient_samples(films.patients, bootstraps, seed):
        for name, value in figures(films.take(sample)).items():
            drawn[name].append(value)
    result = {}
    for name, value in values.items():
        if not np.isfinite(value):
            continue
        kept = np.array(drawn[name])[np.isfinite(drawn[name])]
        interval = tuple(float(q) for q in np.quantile(kept, (0.025, 0.975))) if len(kept) else None
        result[name] = Estimate(value=value, ci=interval)
    return result


def patient_samples(patients: NDArray[np.str_], n: int, seed: int) -> list[NDArray[np.intp]]:
    """n resamples: film indices of patients drawn with replacement, every film of a drawn patient included."""
    _, inverse = np.unique(patients, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(inverse.max() + 2))
    members = [order[a:b] for a, b in pairwise(starts)]
    rng = np.random.default_rng(seed)
    return [np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))]) for _ in range(n)]


def join(parts: Sequence[Judged]) -> Judged:
    """The films of several sets one after another."""
    return Judged(
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.margins for p in parts]),
        np.concatenate([p.probability for p in parts]),
        np.concatenate([p.patients for p in parts]),
    )
