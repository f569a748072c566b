"""A run held against its promotion policy, line by line. Written to promotion.json; a bundle carries the same lines.

A line without a figure is a failed line: what was not measured is never taken for good. Every line names its subject, and what
comes before the colon is what the label of a failed run says ("research-only, gate failed: source shortcut").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from app.bundle.manifest import Estimate, Promotion, PromotionLine
from app.errors import ConfigurationError
from training.judging.evaluate import decision_digest
from training.publishing import attributes, evidence
from training.publishing.evidence import Figures, load_figures
from training.publishing.policy import (
    Ceiling,
    Corruptions,
    Explanations,
    Minimum,
    Policy,
    Rate,
    Slices,
    load_policy,
)
from training.runs import Run

MISSING = "not measured"
SHORTCUT, EDGE = "source shortcut", "edge shortcut"
GOLDEN = "golden test"
FIRST = (SHORTCUT, EDGE, GOLDEN)  # what a label names before all else
LABEL_MAX, TEXT_MAX, NAME_MAX = 120, 400, 120


def promote(run: Run, policy: Policy | None = None) -> Promotion:
    """Hold the run against its recipe's policy (or `policy`) and write promotion.json.

    Raises ConfigurationError before the hard validation, and where the figures are those of other weights.
    """
    policy = policy or load_policy(run.recipe.policy)
    figures = load_figures(run)
    check_weights(run, figures)
    promotion = decided(policy, [*_lines(policy, figures, default_point(run))])
    run.write_json("promotion.json", promotion.model_dump(mode="json"))
    return promotion


def decided(policy: Policy, lines: list[PromotionLine]) -> Promotion:
    """Passed where every line did; the label names what failed, most serious first."""
    failed = [line.name.partition(":")[0] for line in lines if not line.passed]
    label = f"research-only: {policy.name} policy passed" if policy.research_only else "passed"
    if failed:
        subjects = sorted(set(failed), key=lambda s: (FIRST.index(s) if s in FIRST else len(FIRST), failed.index(s)))
        label = _listed("research-only, gate failed: ", subjects)
    return Promotion(
        policy=policy.name, policy_digest=policy.digest, passed=not failed, label=label, lines=tuple(lines)
    )


def with_golden(promotion: Promotion, policy: Policy, measured: str) -> Promotion:
    """The promotion of a bundle whose golden self-test has just passed; a bundle that fails it is written by nobody."""
    kept = [line for line in promotion.lines if line.name != GOLDEN]
    return decided(policy, [*kept, _line(GOLDEN, "every phantom answered as exported", measured, passed=True)])


def check_weights(run: Run, figures: Figures) -> None:
    """Raises ConfigurationError where a figures file belongs to other weights than the run's, or to other calibrators or thresholds."""
    if figures.hard is None:
        raise ConfigurationError(
            "step_missing", f"figures-hard.json is not in {run.path.name}: run `evaluate --split hard`"
        )
    digest = run.weights_digest()
    for step in ("hard", "report", "test", "external", "checks", "shortcuts"):
        content = getattr(figures, step)
        if content is not None and content.get("weights_digest", digest) != digest:
            raise ConfigurationError(
                "stale_step", f"figures-{step}.json of {run.path.name} is that of other weights; take that step again"
            )
        if content is not None and "decision_digest" in content and content["decision_digest"] != decision_digest(run):
            raise ConfigurationError(
                "stale_step", f"figures-{step}.json of {run.path.name} is of other thresholds; take that step again"
            )


def default_point(run: Run) -> str:
    return run.recipe.decision.default_operating_point


def _lines(policy: Policy, figures: Figures, point: str) -> Iterator[PromotionLine]:
    if policy.shortcuts:
        yield from _shortcut_lines(figures)
    if policy.minimum or policy.rate or policy.ceiling:
        yield from _film_lines(policy, figures)
    for minimum in policy.minimum:
        yield from _minimum_lines(minimum, figures)
    for rate in policy.rate:
        yield from _rate_lines(rate, figures, rate.point or point)
    for ceiling in policy.ceiling:
        yield from _ceiling_lines(ceiling, figures)
    if policy.corruptions:
        yield _corruption_line(policy.corruptions, figures)
    if policy.slices:
        yield from _slice_lines(policy.slices, figures)
    if policy.explanations:
        yield from _explanation_lines(policy.explanations, figures)
    if policy.card:
        yield from _card_lines(policy, figures)


def _film_lines(policy: Policy, figures: Figures) -> Iterator[PromotionLine]:
    """A figure of three films says nothing, so each class needs some on either side; counted once, not once per corruption."""
    clean = figures.described("clean")
    for output in figures.recipe.data.outputs:
        counts = None if clean is None else clean["classes"].get(output)
        wanted = f"at least {policy.min_positives} films with and without it in the report half"
        if counts is None:
            yield _line(f"films: {output}", wanted, MISSING, passed=False)
            continue
        having, lacking = counts["positives"], counts["n"] - counts["positives"]
        passed = min(having, lacking) >= policy.min_positives
        yield _line(f"films: {output}", wanted, f"{having} with, {lacking} without", passed=passed)


def _minimum_lines(part: Minimum, figures: Figures) -> Iterator[PromotionLine]:
    for output in figures.recipe.data.outputs:
        level = part.per_class.get(output, part.at_least)
        found = figures.score(part.on, output, part.figure)
        yield _at_least(f"discrimination: {part.figure} of {output}, {part.on}", level, found, part.bound)


def _rate_lines(part: Rate, figures: Figures, point: str) -> Iterator[PromotionLine]:
    for output in figures.recipe.data.outputs:
        level = part.per_class.get(output, part.at_least)
        found = figures.rate(part.on, point, output, part.figure)
        yield _at_least(f"operating point: {part.figure} of {output} at {point}, {part.on}", level, found, part.bound)


def _ceiling_lines(part: Ceiling, figures: Figures) -> Iterator[PromotionLine]:
    for output in figures.recipe.data.outputs:
        level = part.per_class.get(output, part.at_most)
        found = figures.score(part.on, output, part.figure)
        held = _held(found, part.bound)
        yield _line(
            f"calibration: {part.figure} of {output}, {part.on}",
            f"{_bound_name(part.bound)} <= {level:g}",
            _shown(found, part.bound),
            passed=held is not None and held <= level,
        )


def _at_least(name: str, level: float, found: Estimate | None, bound: str) -> PromotionLine:
    held = _held(found, bound)
    return _line(
        name, f"{_bound_name(bound)} >= {level:g}", _shown(found, bound), passed=held is not None and held >= level
    )


def _held(found: Estimate | None, bound: str) -> float | None:
    """What is compared with the level: a bound of the interval, or the value. None where there is no figure, or no interval."""
    if found is None:
        return None
    if bound == "value":
        return found.value
    return None if found.ci is None else found.ci[0 if bound == "lower" else 1]


def _bound_name(bound: str) -> str:
    return "value" if bound == "value" else f"{bound} bound of the 95 % interval"


def _shown(found: Estimate | None, bound: str) -> str:
    if found is None:
        return MISSING
    if found.ci is None:
        return f"{found.value:.4f}" + ("" if bound == "value" else ", no interval")
    return f"{found.value:.4f} ({_interval(found)})"


def _interval(found: Estimate) -> str:
    return "no interval" if found.ci is None else f"{found.ci[0]:.4f} to {found.ci[1]:.4f}"


def _corruption_line(part: Corruptions, figures: Figures) -> PromotionLine:
    name = f"robustness: AUROC under the worst corruption of severity {part.severity}"
    wanted = f"at most {part.drop_at_most:g} below clean"
    table = figures.halves_auroc()
    corrupted = {k: v for k, v in table.items() if k.rpartition("-")[2] == str(part.severity)}
    if "clean" not in table or not corrupted or not all(map(math.isfinite, (table["clean"], *corrupted.values()))):
        return _line(name, wanted, MISSING, passed=False)
    worst = min(corrupted, key=corrupted.__getitem__)
    drop = table["clean"] - corrupted[worst]
    measured = f"{drop:.4f} below ({worst} {corrupted[worst]:.4f}, clean {table['clean']:.4f})"
    return _line(name, wanted, measured, passed=drop <= part.drop_at_most)


def _slice_lines(part: Slices, figures: Figures) -> Iterator[PromotionLine]:
    """One line per fact with a slice large enough to be compared; one failed line where there is none."""
    wanted = (
        f"no slice of at least {part.min_films} films more than {part.gap_at_most:g} below the others in {part.figure}"
    )
    compared = evidence.slice_gaps(figures, part.figure, part.min_films)
    for fact, gaps in sorted(compared.items()):
        worst = min(gaps, key=lambda value: gaps[value].value)
        measured = f"{worst} {gaps[worst].value:+.4f}" + (f" ({_interval(gaps[worst])})" if gaps[worst].ci else "")
        yield _line(f"slices: {fact}", wanted, measured, passed=gaps[worst].value >= -part.gap_at_most)
    if not compared:
        yield _line(
            "slices: any fact", wanted, f"{MISSING}: no fact with two slices that can be compared", passed=False
        )


def _explanation_lines(part: Explanations, figures: Figures) -> Iterator[PromotionLine]:
    content: dict[str, Any] = (figures.checks or {}).get("explanations") or {}
    sanity = content.get("randomisation")
    yield _line(
        "explanations: maps of randomised weights differ",
        "passed",
        MISSING if sanity is None else ("passed" if sanity["passed"] else "the maps stay alike"),
        passed=sanity is not None and bool(sanity["passed"]),
    )
    border = content.get("border_mass")
    found = None if border is None else Estimate.model_validate(border)
    yield _line(
        "explanations: share of the map's mass in the border",
        f"<= {part.border_mass_at_most:g}",
        _shown(found, "value"),
        passed=found is not None and found.value <= part.border_mass_at_most,
    )


def _shortcut_lines(figures: Figures) -> Iterator[PromotionLine]:
    """The verdict of `training.judging.verdict`, as it stands: on sources, and on marks and corners."""
    verdict = (figures.shortcuts or {}).get("verdict")
    if not verdict:
        yield _line(f"{SHORTCUT}: verdict of the probes", "no shortcut found", MISSING, passed=False)
        return
    for line in verdict:
        subject = SHORTCUT if line["name"].startswith("source") else EDGE
        yield _line(f"{subject}: {line['name']}", line["wanted"], line["measured"], passed=bool(line["passed"]))


def _card_lines(policy: Policy, figures: Figures) -> Iterator[PromotionLine]:
    found = attributes.source_attributes(attributes.facts_of_run(figures, policy))
    missing = [f"{a.number} {a.name}" for a in found if not a.text]
    yield _line(
        attributes.CARD,
        f"all {len(found)} known",
        f"{len(found) - len(missing)} known" + (f"; missing: {', '.join(missing)}" if missing else ""),
        passed=not missing,
    )


def _line(name: str, wanted: Any, measured: Any, *, passed: bool) -> PromotionLine:
    return PromotionLine(
        name=_cut(name, NAME_MAX),
        wanted=_cut(str(wanted), TEXT_MAX),
        measured=_cut(str(measured), TEXT_MAX),
        passed=passed,
    )


def _listed(start: str, subjects: list[str]) -> str:
    """As many subjects as a label holds, and how many more there are."""
    for kept in range(len(subjects), 0, -1):
        more = f" and {len(subjects) - kept} more" if kept < len(subjects) else ""
        label = f"{start}{', '.join(subjects[:kept])}{more}"
        if len(label) <= LABEL_MAX:
            return label
    return _cut(start + subjects[0], LABEL_MAX)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
