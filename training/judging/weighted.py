"""The figures of one yes-or-no question, for films that count several times or not at all.

Every function takes weights float64 [B, N] and gives one value per row, [B]: row b says how often each of the N films counts in
replicate b of a bootstrap, so that scores are sorted once and not once per replicate. A row of ones gives the plain figure
(`training.judging.figures`). Weights are whole numbers; nan where a figure has no value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
EPSILON = 1e-7  # probabilities are kept this far from 0 and 1 inside a logarithm
BINS = 15


def auroc(weights: Floats, labels: Labels, scores: Floats) -> Floats:
    """Probability that a positive film scores above a negative one, ties counting half (Mann-Whitney). nan for one class."""
    every, positive = _grouped(weights, labels, scores)
    negative = every - positive
    below = np.cumsum(negative, axis=1) - negative / 2
    return divided(np.einsum("bg,bg->b", positive, below), positive.sum(axis=1) * negative.sum(axis=1))


def auprc(weights: Floats, labels: Labels, scores: Floats) -> Floats:
    """Average precision: sum over distinct scores of (recall step) * precision, no interpolation. nan without positives."""
    every, positive = _grouped(weights, labels, -scores)
    shown = np.maximum(np.cumsum(every, axis=1), 1.0)  # 0 only where nothing is shown yet, and then no hit either
    precision = np.cumsum(positive, axis=1) / shown
    return divided(np.einsum("bg,bg->b", positive, precision), positive.sum(axis=1))


def sensitivity_at(weights: Floats, labels: Labels, scores: Floats, specificity: float) -> Floats:
    """Read off the ROC curve: the largest share of positives at or above any score at which at least `specificity` of the negatives
    lie below. No interpolation, 0 where only the threshold above all scores is specific enough; nan for one class."""
    every, positive = _grouped(weights, labels, scores)
    zero = np.zeros((len(weights), 1))
    below, missed = (np.hstack([zero, np.cumsum(part, axis=1)]) for part in (every - positive, positive))
    enough = below >= specificity * below[:, -1:] - 1e-9  # whole numbers: the margin is for the product's rounding
    lowest = np.argmax(enough, axis=1)[:, None]
    both = np.where(below[:, -1] > 0, missed[:, -1], 0.0)
    return divided(missed[:, -1] - np.take_along_axis(missed, lowest, axis=1)[:, 0], both)


def mean(weights: Floats, values: Floats) -> Floats:
    """Mean of values [N] over the films as often as they count."""
    return divided(weights @ values, weights.sum(axis=1))


def squared_errors(labels: Labels, probability: Floats) -> Floats:
    """Each film's part of the Brier score: (probability of the positive class - truth)^2, [N]."""
    return np.asarray((probability - labels) ** 2)


def log_losses(labels: Labels, probability: Floats) -> Floats:
    """Each film's negative log-likelihood in nats, probabilities kept in [1e-7, 1 - 1e-7], [N]."""
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    return -np.where(labels == 1, np.log(p), np.log1p(-p))


def ece_equal_mass(weights: Floats, labels: Labels, probability: Floats, bins: int = BINS) -> Floats:
    """Expected calibration error over bins that hold equally many films (numpy.array_split's sizes), rising in probability.

    Films of equal probability that lie across a bin's edge are dealt out in proportion, so that the order of the films is of no
    consequence. sum over bins of (share of films) * |mean probability - positive rate|.
    """
    every, positive = _grouped(weights, labels, probability)
    shown = every * np.unique(probability)
    zero = np.zeros((len(weights), 1))
    mass, gap = (np.hstack([zero, np.cumsum(part, axis=1)]) for part in (every, shown - positive))
    total = mass[:, -1].astype(np.int64)
    inner = np.arange(bins + 1)
    edges = inner * (total // bins)[:, None] + np.minimum(inner, (total % bins)[:, None])
    at_edges = np.stack([np.interp(e, m, g) for e, m, g in zip(edges, mass, gap, strict=True)])
    return divided(np.abs(np.diff(at_edges, axis=1)).sum(axis=1), mass[:, -1])


def ece_equal_width(weights: Floats, labels: Labels, probability: Floats, bins: int = BINS) -> Floats:
    """The same over bins that split [0, 1] into equal parts; a probability of 1 falls into the last."""
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.zeros((len(labels), bins))
    gap[np.arange(len(labels)), index] = probability - labels
    return divided(np.abs(weights @ gap).sum(axis=1), weights.sum(axis=1))


def counts(weights: Floats, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> dict[str, Floats]:
    """tp, fp, tn, fn of truth and prediction bool [N]."""
    cells = {"tp": truth & predicted, "fp": ~truth & predicted, "tn": ~truth & ~predicted, "fn": truth & ~predicted}
    found = weights @ np.stack(list(cells.values()), axis=1).astype(np.float64)
    return {name: found[:, i] for i, name in enumerate(cells)}


def rates(tp: Floats, fp: Floats, tn: Floats, fn: Floats) -> dict[str, Floats]:
    """What follows from a confusion matrix, [B] each; nan where a denominator is zero."""
    return {
        "sensitivity": divided(tp, tp + fn),
        "specificity": divided(tn, tn + fp),
        "ppv": divided(tp, tp + fp),
        "npv": divided(tn, tn + fn),
        "f1": divided(2 * tp, 2 * tp + fp + fn),
    }


def divided(part: Floats, whole: Floats) -> Floats:
    """part / whole, nan where the whole is zero."""
    found: Floats = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)
    return found


def _grouped(weights: Floats, labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """Weight of all films, and of the positive ones, at each distinct score, rising: float64 [B, G] each."""
    order = np.argsort(scores, kind="stable")
    every = weights[:, order]
    positive = every * labels[order]
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    if len(starts) < len(order):
        every, positive = (np.add.reduceat(part, starts, axis=1) for part in (every, positive))
    return every, positive
