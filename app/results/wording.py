"""The sentences of the results, in English, said once for every format."""

from __future__ import annotations

from typing import Final

from app.bundle.manifest import Estimate
from app.domain import ClassScore
from app.results.report import Report

NOT_FOR_DIAGNOSIS: Final = "AI overlay - not for diagnosis"
NOT_A_DIAGNOSIS: Final = (
    "Calibrated risk score for decision support, not a diagnosis. A heat map is a hint, not the outline of a lesion. "
    "A qualified person must read the film."
)
MANUFACTURER: Final = "cxr-triage"
TITLE: Final = "Chest radiograph triage (AI)"

_REASONS: Final = {
    "low_confidence": "the confidence is low",
    "borderline": "a score lies close to its threshold",
    "ambiguous": "more than one class, or none, fits the film at the wanted coverage",
    "quality": "the quality of the film or its intended use is in doubt",
    "out_of_distribution": "the film is unlike those the model was measured on",
}


def algorithm(report: Report) -> str:
    return f"{report.bundle_name} {report.bundle_version}"


def conclusion(report: Report) -> str:
    """One sentence: the label, and where it comes from."""
    words = report.decision.label.replace("_", " ")
    return f"Triage label: {words} (operating point {report.point.name}, {algorithm(report)})."


def review(report: Report) -> str:
    """Whether and why a human must look first."""
    if not report.decision.review_required:
        return "No reason for a review beyond the reading of the film."
    reasons = [_REASONS.get(str(r), str(r).replace("_", " ")) for r in report.decision.review_reasons]
    return f"Review required: {'; '.join(reasons)}."


def restriction(report: Report) -> tuple[str, ...]:
    """The line of a bundle that is not for patients, for pictures and titles; elsewhere the warning says it."""
    return () if report.restriction is None else (f"NOT FOR PATIENTS: {report.restriction}",)


def warnings(report: Report) -> tuple[str, ...]:
    return tuple(f"Warning {n.code}: {n.message}" for n in report.notices)


def comments(report: Report) -> tuple[str, ...]:
    """What must be read with the numbers, most important first."""
    return (
        NOT_A_DIAGNOSIS,
        review(report),
        *warnings(report),
        f"Purpose: {report.purpose}",
        f"Limits: {report.limits}",
    )


def operating_point(report: Report) -> tuple[str, ...]:
    """The rule, what it was chosen for, and what was measured with it, one line per class."""
    point = report.point
    lines = [f"Operating point {point.name}: rule {point.rule}, target: {point.target}."]
    if report.decision.prediction_set is not None:
        names = ", ".join(name.replace("_", " ") for name in report.decision.prediction_set) or "no class"
        lines.append(f"Prediction set, what cannot be ruled out: {names}.")
    if point.conformal is not None:
        found = point.conformal
        lines.append(
            f"Measured on {found.n} films ({found.data}): coverage {_figure(found.coverage)}, mean size of a set "
            f"{_figure(found.mean_set_size)}."
        )
    lines += [
        f"Measured for {label} on {m.n} films ({m.data}): sensitivity {_figure(m.sensitivity)}, "
        f"specificity {_figure(m.specificity)}."
        for label, m in sorted(point.measured.items())
    ]
    return tuple(lines)


def probability(value: float) -> str:
    """Three decimals; never 1.000 or 0.000 for what is neither."""
    if 0 < value < 0.001:
        return "<0.001"
    if 0.999 < value < 1:
        return ">0.999"
    return f"{value:.3f}"


def verdict(score: ClassScore) -> str:
    return "positive" if score.positive else "negative"


def decided_by_threshold(score: ClassScore) -> bool:
    """Whether the verdict is what the threshold alone says; not so for a class that is no finding, or that another one outranks."""
    reached = score.threshold_margin is not None and score.margin >= score.threshold_margin
    return score.threshold_margin is not None and reached == score.positive


def _figure(estimate: Estimate) -> str:
    if estimate.ci is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} (95 % CI {estimate.ci[0]:.3f} to {estimate.ci[1]:.3f})"
