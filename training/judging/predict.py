"""The decisions of an operating point for many films at once, by the service's rules (`app.decision`); a test compares the two film
by film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Calibration, OperatingPoint
from app.decision import ABSENCE, NO_FINDING, scaled_logits
from training.judging.scored import Floats, Scored

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Decided:
    """What N films are answered at one operating point. All arrays are in the order of `classes`, the recipe's.

    labels: str [N]. answers: bool [N, C], the classes that a film is said to show: its label alone, for multilabel every finding, and
    a class that stands for absence where there is no finding. held: bool [N, C], the prediction sets of a conformal point, else None.
    gap: float64 [N], distance of the decision from its nearest threshold (argmax: from the runner-up), in logit units.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.str_]
    answers: Bools
    held: Bools | None
    gap: Floats


def decide_all(films: Scored, calibration: Calibration, point: OperatingPoint, classes: Sequence[str]) -> Decided:
    """The films' decisions. classes: all of the recipe (binary: negative, positive), in its order."""
    margins = class_margins(films, calibration)
    thresholds = np.array([point.thresholds.get(name, np.nan) for name in classes])
    reached = np.nan_to_num(margins - thresholds, nan=-1.0) >= 0  # no threshold: never reached
    if point.rule == "per_label":
        labels, answers = _findings(films, calibration, reached, classes)
    else:
        index = _single(films, calibration, point, reached, classes)
        labels = np.array(classes, dtype=np.str_)[index]
        answers = np.arange(len(classes)) == index[:, None]
    return Decided(
        classes=tuple(classes),
        labels=labels,
        answers=answers,
        held=reached if point.rule == "conformal" else None,
        gap=_gap(margins, thresholds),
    )


def class_margins(films: Scored, calibration: Calibration) -> Floats:
    """Margins of all C classes, float64 [N, C]: for binary the negative class's, which is minus the other, comes first."""
    margins = films.margins(calibration)
    return np.hstack([-margins, margins]) if films.task == "binary" else margins


def true_class(films: Scored) -> NDArray[np.intp]:
    """Index of each film's class (binary: 0 negative, 1 positive); for recipes of one label per film. int [N]."""
    if films.task == "binary":
        return np.asarray(films.targets[:, 0], dtype=np.intp)
    return np.asarray(np.argmax(films.targets, axis=1), dtype=np.intp)


def _single(
    films: Scored, calibration: Calibration, point: OperatingPoint, reached: Bools, classes: Sequence[str]
) -> NDArray[np.intp]:
    """Index of the one label: `threshold`, `hierarchical`, `argmax` and `conformal`."""
    if point.rule == "threshold":
        return np.asarray(reached[:, 1], dtype=np.intp)
    if point.rule == "hierarchical":
        order = [classes.index(name) for name in point.priority]
        first = np.argmax(reached[:, order], axis=1)
        found = np.array(order, dtype=np.intp)[first]
        return np.where(reached[:, order].any(axis=1), found, classes.index(str(point.fallback)))
    scaled = scaled_logits(films.logits, calibration)
    highest = scaled[:, 0] > 0 if films.task == "binary" else np.argmax(scaled, axis=1)
    return np.asarray(highest, dtype=np.intp)


def _findings(
    films: Scored, calibration: Calibration, reached: Bools, classes: Sequence[str]
) -> tuple[NDArray[np.str_], Bools]:
    """Labels and answers of `per_label`: the finding with the highest probability, ties by margin, then by order."""
    absence = np.array([name in ABSENCE for name in classes])
    findings = reached & ~absence
    none = ~findings.any(axis=1)
    shown = np.where(findings, films.probability(calibration), -np.inf)
    best = np.where(shown == shown.max(axis=1, keepdims=True), films.margins(calibration), -np.inf)
    labels = np.array(classes, dtype=np.str_)[np.argmax(np.where(findings, best, -np.inf), axis=1)]
    return np.where(none, NO_FINDING, labels), findings | (absence & none[:, None])


def _gap(margins: Floats, thresholds: Floats) -> Floats:
    known = np.isfinite(thresholds)
    if known.any():
        return np.asarray(np.abs(margins[:, known] - thresholds[known]).min(axis=1))
    ranked = np.sort(margins, axis=1)
    return np.asarray(ranked[:, -1] - ranked[:, -2])
