"""What a run says of each film at one operating point, and intervals of any figure by resampled patients.

The decisions are those of `training.judging.predict`. A conformal point answers with sets; where one answer a film is needed, the class
with the largest probability stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Calibration, OperatingPoint
from training.judging.figures import auroc, patient_samples
from training.judging.predict import decide_all, true_class
from training.judging.scored import Scored

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Index = NDArray[np.intp]
Figure = dict[str, Any]  # {"value": float, "ci": [low, high] | None}


@dataclass(frozen=True)
class Rule:
    """How logits become answers. classes: of the recipe; binary: (negative, positive)."""

    classes: tuple[str, ...]
    calibration: Calibration
    point: OperatingPoint


@dataclass(frozen=True)
class Answers:
    """N films answered.

    margins, probability: float64 [N, K], K = len(outputs). positive: bool [N, K], what the point calls present (single-label: the
    decided class). gap: float64 [N], distance from the nearest threshold, logit units. truth, decided: int64 [N], index into `classes`;
    -1 for multilabel, which has no single one. correct: float64 [N]
    in [0, 1] (multilabel: share of the known labels that are right). confidence: float64 [N], probability of the most probable class
    (multilabel: mean over labels of max(p, 1 - p)).
    """

    scored: Scored
    classes: tuple[str, ...]
    margins: Floats
    probability: Floats
    positive: NDArray[np.bool_]
    gap: Floats
    truth: Ints
    decided: Ints
    correct: Floats
    confidence: Floats

    def __len__(self) -> int:
        return len(self.scored)


def answer(scored: Scored, rule: Rule) -> Answers:
    """Decide every film."""
    margins, probability = scored.margins(rule.calibration), scored.probability(rule.calibration)
    decided = decide_all(scored, rule.calibration, rule.point, rule.classes)
    if scored.task == "multilabel":
        known = np.isfinite(scored.targets)
        right = known & (decided.answers == (scored.targets == 1))
        index = truth = np.full(len(scored), -1, dtype=np.int64)
        correct = right.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        confidence = np.maximum(probability, 1 - probability).mean(axis=1)
    else:
        index, truth = decided.answers.argmax(axis=1), true_class(scored)
        correct = (index == truth).astype(np.float64)
        shown = np.hstack([1 - probability, probability]) if scored.task == "binary" else probability
        confidence = shown.max(axis=1)
    return Answers(
        scored=scored,
        classes=rule.classes,
        margins=margins,
        probability=probability,
        positive=decided.answers[:, 1:] if scored.task == "binary" else decided.answers,
        gap=decided.gap,
        truth=np.asarray(truth, dtype=np.int64),
        decided=np.asarray(index, dtype=np.int64),
        correct=np.asarray(correct, dtype=np.float64),
        confidence=np.asarray(confidence, dtype=np.float64),
    )


def macro_auroc(targets: Floats, margins: Floats) -> float:
    """Mean over the outputs of the AUROC, each class against the rest on the films whose truth is known; nan where none has both sides."""
    values = []
    for k in range(targets.shape[1]):
        known = np.isfinite(targets[:, k])
        values.append(auroc(targets[known, k].astype(np.int64), margins[known, k]))
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def balanced_accuracy(answers: Answers, chosen: Index) -> float:
    """Mean recall over the classes that occur; multilabel: mean over labels of (sensitivity + specificity) / 2."""
    if answers.scored.task == "multilabel":
        targets, positive = answers.scored.targets[chosen], answers.positive[chosen]
        rates = [
            np.mean([np.mean(positive[targets[:, k] == 1, k]), np.mean(~positive[targets[:, k] == 0, k])])
            for k in range(targets.shape[1])
            if np.any(targets[:, k] == 1) and np.any(targets[:, k] == 0)
        ]
    else:
        truth, correct = answers.truth[chosen], answers.correct[chosen]
        rates = [np.mean(correct[truth == k]) for k in np.unique(truth)]
    return float(np.mean(rates)) if rates else float("nan")


def figures_at(answers: Answers, chosen: Index) -> dict[str, float]:
    """auroc (macro), accuracy, balanced_accuracy and mean confidence of some films."""
    return {
        "auroc": macro_auroc(answers.scored.targets[chosen], answers.margins[chosen]),
        "accuracy": float(answers.correct[chosen].mean()),
        "balanced_accuracy": balanced_accuracy(answers, chosen),
        "confidence": float(answers.confidence[chosen].mean()),
    }


def intervals(
    figures: Callable[[Index], Mapping[str, float]], patients: NDArray[np.str_], *, bootstraps: int, seed: int
) -> dict[str, Figure]:
    """Figures of all films with 95 % percentile intervals over resampled patients. A figure that is nan is left out.

    Args:
        figures: from film indices [n] to values by name.
        patients: str [N].
    """
    values = figures(np.arange(len(patients)))
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for sample in patient_samples(patients, bootstraps, seed):
        for name, value in figures(sample).items():
            drawn[name].append(value)
    return {n: figure(v, np.array(drawn[n], dtype=np.float64)) for n, v in values.items() if np.isfinite(v)}


def figure(value: float, replicates: Floats) -> Figure:
    """A value with the 2.5 and 97.5 % quantiles of its finite replicates."""
    kept = replicates[np.isfinite(replicates)]
    interval = [float(q) for q in np.quantile(kept, (0.025, 0.975))] if len(kept) else None
    return {"value": float(value), "ci": interval}


def below(value: Figure, limit: float) -> bool:
    """Whether the whole interval lies below."""
    return value["ci"] is not None and bool(value["ci"][1] < limit)


def above(value: Figure, limit: float) -> bool:
    """Whether the whole interval lies above."""
    return value["ci"] is not None and bool(value["ci"][0] > limit)
