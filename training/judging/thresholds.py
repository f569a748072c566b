"""One threshold on one class's margins, in logit units, never on saturated probabilities. Which of them make an operating point, and
on which films, says `training.judging.points`.

A threshold lies midway between two neighbouring margins, so that no film of the fit sits on it.
"""

from __future__ import annotations

import numpy as np

from app.errors import ConfigurationError
from training.judging.weighted import Floats, Labels


def curve(labels: Labels, margins: Floats) -> tuple[Floats, Floats, Floats]:
    """Every useful threshold, rising, with its sensitivity and specificity (positive: margin >= threshold); float64 [M] each.

    Raises ConfigurationError where a class is missing: nothing can be derived from one class.
    """
    if len(np.unique(labels)) < 2:
        raise ConfigurationError("one_class", "operating points need films of both classes")
    values = np.unique(margins)
    thresholds = np.r_[values[0] - 1.0, (values[:-1] + values[1:]) / 2, values[-1] + 1.0]
    positives, negatives = np.sort(margins[labels == 1]), np.sort(margins[labels == 0])
    below_positive = np.asarray(np.searchsorted(positives, thresholds, side="left"), dtype=np.float64)
    below_negative = np.asarray(np.searchsorted(negatives, thresholds, side="left"), dtype=np.float64)
    return thresholds, 1 - below_positive / len(positives), below_negative / len(negatives)


def youden(labels: Labels, margins: Floats) -> float:
    """The middle one of the thresholds with the largest Youden index, sensitivity + specificity - 1 (Youden 1950)."""
    thresholds, sensitivity, specificity = curve(labels, margins)
    return _middle_best(thresholds, sensitivity + specificity)


def for_sensitivity(labels: Labels, margins: Floats, target: float) -> float:
    """The highest threshold whose sensitivity is at least `target`."""
    thresholds, sensitivity, _ = curve(labels, margins)
    return float(thresholds[np.flatnonzero(sensitivity >= target - 1e-12)[-1]])


def for_specificity(labels: Labels, margins: Floats, target: float) -> float:
    """The lowest threshold whose specificity is at least `target`."""
    thresholds, _, specificity = curve(labels, margins)
    return float(thresholds[np.flatnonzero(specificity >= target - 1e-12)[0]])


def max_f1(labels: Labels, margins: Floats) -> float:
    """The middle one of the thresholds with the largest F1 = 2 tp / (2 tp + fp + fn)."""
    thresholds, sensitivity, specificity = curve(labels, margins)
    positives = labels.sum()
    hits, alarms = sensitivity * positives, (1 - specificity) * (len(labels) - positives)
    return _middle_best(thresholds, 2 * hits / (hits + alarms + positives))


def least_cost(
    labels: Labels, margins: Floats, *, missed: float, false_alarm: float, prevalence: float | None = None
) -> float:
    """The middle one of the thresholds with the smallest expected cost of a film.

    missed, false_alarm: cost of a missed positive and of a false alarm. prevalence: share of positives where the point will be used;
    None: as among these films.
    """
    thresholds, sensitivity, specificity = curve(labels, margins)
    share = float(np.mean(labels)) if prevalence is None else prevalence
    cost = missed * share * (1 - sensitivity) + false_alarm * (1 - share) * (1 - specificity)
    return _middle_best(thresholds, -cost)


def _middle_best(thresholds: Floats, merit: Floats) -> float:
    best = np.flatnonzero(merit >= merit.max() - 1e-12)
    return float(thresholds[best[len(best) // 2]])
