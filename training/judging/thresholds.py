"""Operating points: thresholds on margins, in logit units, never on saturated probabilities.

    screening        largest sensitivity + specificity - 1 (Youden 1950)
    sensitivity-90   the highest threshold that reaches the sensitivity target
    rule-in          the lowest threshold that reaches the specificity target, but never below screening

A threshold lies midway between two neighbouring margins, so that no film of the fit sits on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.errors import ConfigurationError

Floats = NDArray[np.float64]


def curve(labels: NDArray[np.int64], margins: Floats) -> tuple[Floats, Floats, Floats]:
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


def youden(labels: NDArray[np.int64], margins: Floats) -> float:
    """The middle one of the thresholds with the largest Youden index."""
    thresholds, sensitivity, specificity = curve(labels, margins)
    index = sensitivity + specificity
    best = np.flatnonzero(index >= index.max() - 1e-12)
    return float(thresholds[best[len(best) // 2]])


def for_sensitivity(labels: NDArray[np.int64], margins: Floats, target: float) -> float:
    """The highest threshold whose sensitivity is at least `target`."""
    thresholds, sensitivity, _ = curve(labels, margins)
    return float(thresholds[np.flatnonzero(sensitivity >= target - 1e-12)[-1]])


def for_specificity(labels: NDArray[np.int64], margins: Floats, target: float) -> float:
    """The lowest threshold whose specificity is at least `target`."""
    thresholds, _, specificity = curve(labels, margins)
    return float(thresholds[np.flatnonzero(specificity >= target - 1e-12)[0]])
