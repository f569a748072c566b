"""From logits to a decision: margins, calibrated probabilities, the rule of an operating point, and reasons for review.

All arithmetic is float64 and holds for logits of any finite size. Decisions are taken on margins alone; a calibration map is a
strictly or weakly increasing function of the margin that makes the *shown* probability, so it can never change a decision.

Margin of class k from the scaled logits s_k = z_k / T_k (T = temperature, one for all or one per logit, else 1), in logit units:

- binary and multilabel: m_k = s_k;
- multiclass: m_k = s_k - log sum over j != k of exp(s_j), which is the logit of the softmax probability of k.

Shown probability: sigmoid(m_k) without calibration or with temperatures (for multiclass that *is* the softmax, and sums to one);
Platt and isotonic map each margin by its own curve. For multiclass these are per-class (one against the rest) risks; they
need not sum to one, and are not made to, since that would move each class by what the others say.

What counts as positive (`Decision.positive`, `ClassScore.positive`) is a *finding*: classes[1] of a binary bundle, a class of the
priority list under `hierarchical`, and any class not called `normal` or `no_finding` under `argmax` and `per_label`. An empty
`positive` therefore always means that nothing was found, whatever the task. Under `conformal` it lists the findings of the prediction
set, those that cannot be ruled out; the label is the class with the highest scaled logit, in the set or not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.bundle.manifest import (
    Calibration,
    IsotonicCalibration,
    Manifest,
    OperatingPoint,
    PlattCalibration,
    ReviewRule,
    TemperatureCalibration,
    VectorTemperatureCalibration,
)
from app.domain import ClassScore, Decision, Notice, ReviewReason, Task
from app.errors import InternalError

Floats: TypeAlias = NDArray[np.float64]

NO_FINDING = "no_finding"
ABSENCE = frozenset({"normal", NO_FINDING})  # class names that say that nothing was found


def scaled_logits(logits: ArrayLike, calibration: Calibration) -> Floats:
    """Logits over the temperatures (1 unless the calibration has any; Guo et al. 2017), float64 [..., K]."""
    return np.asarray(logits, dtype=np.float64) / temperatures(calibration)


def temperatures(calibration: Calibration) -> Floats:
    """What logits are divided by: float64 [K], or [1] where it is the same for all (1 without a temperature)."""
    if isinstance(calibration, VectorTemperatureCalibration):
        return np.asarray(calibration.temperatures, dtype=np.float64)
    return np.array([calibration.temperature if isinstance(calibration, TemperatureCalibration) else 1.0])


def margins(task: Task, scaled: ArrayLike) -> Floats:
    """Margins in logit units, float64 [..., K] from scaled logits [..., K] (module docstring)."""
    s = np.asarray(scaled, dtype=np.float64)
    if task != "multiclass":
        return s.copy()
    # sorted, so that equal logits get equal margins to the last bit, in whatever order the classes stand
    others = [_logsumexp(np.sort(np.delete(s, k, axis=-1), axis=-1)) for k in range(s.shape[-1])]
    return s - np.stack(others, axis=-1)


def probabilities(task: Task, margins: ArrayLike, calibration: Calibration) -> Floats:
    """Shown probabilities in [0, 1], float64 [..., K], one per logit; increasing in the margin of the same class.

    `task` does not enter the arithmetic: the margin already carries it. Sources: Platt 1999; Zadrozny & Elkan 2002 (isotonic,
    piecewise linear between knots, constant outside).
    """
    del task
    m = np.asarray(margins, dtype=np.float64)
    if isinstance(calibration, PlattCalibration):
        return sigmoid(np.asarray(calibration.slope) * m + np.asarray(calibration.intercept))
    if isinstance(calibration, IsotonicCalibration):
        curves = [np.interp(m[..., k], c.margins, c.probabilities) for k, c in enumerate(calibration.curves)]
        return np.stack(curves, axis=-1)
    return sigmoid(m)


def decide(
    logits: NDArray[np.float32], manifest: Manifest, point: OperatingPoint, *, quality_doubt: bool = False
) -> Decision:
    """The decision at one operating point of the bundle.

    Args:
        logits: [K], uncalibrated, as the network gave them (binary: one, of classes[1]).
        manifest: of the bundle that made the logits; `point` is one of its operating points.
        quality_doubt: the film's quality is a reason for review.

    Returns:
        classes sorted by probability, ties by margin, then by the bundle's order. A margin equal to its threshold counts as
        reached. Binary shows both classes: the negative one with -logit, -margin and 1 - probability, and with a threshold only at
        a conformal point.

    Raises:
        InternalError: logits of the wrong shape, or not finite; neither may become a decision.
    """
    z = np.asarray(logits, dtype=np.float64)
    if z.shape != (manifest.network.logits,) or not np.isfinite(z).all():
        raise InternalError from ValueError(f"{manifest.network.logits} finite logits wanted, got {z.tolist()}")
    scaled = scaled_logits(z, manifest.calibration)
    scores = _scores(manifest, point, z, margins(manifest.task, scaled))
    held = [score.name for score in scores if _reached(score)]
    label, positive = _apply_rule(manifest, point, scores, scaled)
    marked = [replace(score, positive=score.name in positive) for score in scores]
    ranked = sorted(marked, key=lambda score: (-score.probability, -score.margin))
    confidence = None if manifest.task == "multilabel" else ranked[0].probability
    prediction_set = tuple(held) if point.rule == "conformal" else None
    reasons = _review_reasons(marked, confidence, manifest.review, prediction_set, quality_doubt=quality_doubt)
    return Decision(
        task=manifest.task,
        label=label,
        positive=positive,
        rule=point.rule,
        confidence=confidence,
        classes=tuple(ranked),
        operating_point=point.name,
        review_reasons=reasons,
        prediction_set=prediction_set,
    )


def inconsistency(manifest: Manifest, decision: Decision) -> Notice | None:
    """A multilabel answer that contradicts itself: `no_finding` reached its threshold beside a finding, or nothing did at all.

    Labels are judged one by one, so that both happen; None where there is no such class to contradict.
    """
    if manifest.task != "multilabel" or NO_FINDING not in manifest.classes:
        return None
    absent = next(_reached(score) for score in decision.classes if score.name == NO_FINDING)
    if absent == bool(decision.positive):
        what = f"no_finding and {', '.join(decision.positive)}" if absent else "no label, not even no_finding"
        return Notice("inconsistent_labels", f"The labels contradict each other: {what} reached its threshold.")
    return None


def sigmoid(x: ArrayLike) -> Floats:
    """1 / (1 + exp(-x)) without overflow; keeps the relative precision of small probabilities."""
    values = np.asarray(x, dtype=np.float64)
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, small) / (1.0 + small)


def _logsumexp(values: Floats) -> Floats:
    top = values.max(axis=-1, keepdims=True)
    total: Floats = np.log(np.exp(values - top).sum(axis=-1)) + top[..., 0]
    return total


def _scores(manifest: Manifest, point: OperatingPoint, z: Floats, m: Floats) -> list[ClassScore]:
    """One score per class in the bundle's order, not yet marked positive."""
    names = manifest.classes[1:] if manifest.task == "binary" else manifest.classes
    # the same maps for margins and thresholds, so that equal margins show equal probabilities
    thresholds = np.array([point.thresholds.get(name, 0.0) for name in names], dtype=np.float64)
    shown = probabilities(manifest.task, m, manifest.calibration)
    shown_thresholds = probabilities(manifest.task, thresholds, manifest.calibration)
    scores = [
        ClassScore(
            name=name,
            probability=float(shown[k]),
            logit=float(z[k]),
            margin=float(m[k]),
            threshold_margin=point.thresholds.get(name),
            threshold_probability=float(shown_thresholds[k]) if name in point.thresholds else None,
            positive=False,
        )
        for k, name in enumerate(names)
    ]
    if manifest.task == "binary":
        scores.insert(0, _opposite(scores[0], manifest, point))
    return scores


def _opposite(score: ClassScore, manifest: Manifest, point: OperatingPoint) -> ClassScore:
    """The negative class of a binary bundle. A threshold t of its margin -m is shown by the same map as the margin: 1 - P(-t)."""
    name = manifest.classes[0]
    threshold = point.thresholds.get(name)
    shown = None
    if threshold is not None:
        shown = 1.0 - float(probabilities(manifest.task, [-threshold], manifest.calibration)[0])
    return ClassScore(
        name=name,
        probability=1.0 - score.probability,
        logit=-score.logit,
        margin=-score.margin,
        threshold_margin=threshold,
        threshold_probability=shown,
        positive=False,
    )


def _reached(score: ClassScore) -> bool:
    return score.threshold_margin is not None and score.margin >= score.threshold_margin


def _apply_rule(
    manifest: Manifest, point: OperatingPoint, scores: list[ClassScore], scaled: Floats
) -> tuple[str, tuple[str, ...]]:
    """Label and positive findings, the latter in the bundle's order of classes."""
    reached = [score for score in scores if _reached(score)]
    if point.rule == "threshold":
        label = manifest.classes[1] if reached else manifest.classes[0]
        return label, tuple(s.name for s in reached)
    if point.rule == "hierarchical":
        names = {s.name for s in reached}
        first = next((name for name in point.priority if name in names), None)
        return first or str(point.fallback), (first,) if first else ()
    if point.rule == "argmax":
        label = _highest(manifest, scaled)
        return label, () if label in ABSENCE else (label,)
    if point.rule == "conformal":
        absent = {manifest.classes[0]} if manifest.task == "binary" else ABSENCE
        return _highest(manifest, scaled), tuple(s.name for s in reached if s.name not in absent)
    # per_label. A film is never labelled `no_finding` beside a finding: a class of that name is shown with its own score and
    # threshold, and becomes the label only where no finding reached its threshold.
    findings = [s for s in reached if s.name not in ABSENCE]
    if not findings:
        return NO_FINDING, ()
    label = max(findings, key=lambda s: (s.probability, s.margin)).name
    return label, tuple(s.name for s in findings)


def _highest(manifest: Manifest, scaled: Floats) -> str:
    """The class with the highest scaled logit, the first of equals. Margins rise with it, but round to equals far out."""
    if manifest.task == "binary":
        return manifest.classes[1] if scaled[0] > 0 else manifest.classes[0]
    return manifest.classes[int(np.argmax(scaled))]


def _review_reasons(
    scores: list[ClassScore],
    confidence: float | None,
    rule: ReviewRule,
    prediction_set: tuple[str, ...] | None,
    *,
    quality_doubt: bool,
) -> tuple[ReviewReason, ...]:
    gaps = [abs(s.margin - s.threshold_margin) for s in scores if s.threshold_margin is not None]
    if not gaps:  # argmax: the runner-up is what the decision is close to
        second, first = sorted(s.margin for s in scores)[-2:]
        gaps = [first - second]
    reasons = []
    if confidence is not None and confidence < rule.low_confidence_below:
        reasons.append(ReviewReason.LOW_CONFIDENCE)
    if min(gaps) <= rule.borderline_margin:
        reasons.append(ReviewReason.BORDERLINE)
    if prediction_set is not None and len(prediction_set) != 1:
        reasons.append(ReviewReason.AMBIGUOUS)
    if quality_doubt:
        reasons.append(ReviewReason.QUALITY)
    return tuple(reasons)
