"""MODEL_CARD.md from the manifest. Every figure in it is read from there; none is typed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.bundle.gate_spec import PictureGate
from app.bundle.manifest import REFERENCE_VARIANT, Estimate, Manifest, Metric, OperatingPoint, Variant
from training.judging.describe import INTERVALS
from training.publishing import attributes

BEYOND = 1e5  # no margin is as large: `training.judging.points.NEVER`, `training.judging.conformal.ALWAYS`


def model_card(m: Manifest) -> str:
    """The card in Markdown."""
    parts = [
        f"# {m.name} {m.version}",
        f"{_sentence(m)} Decision support, never autonomous diagnosis.",
        *_restriction(m),
        "## Intended use",
        _use(m),
        "## Operating points",
        "Thresholds are margins in logit units; a film is positive where its margin reaches the threshold.",
        *(_point(m, p) for p in m.operating_points),
        f"Calibration: {m.calibration.method}. Chosen by: {m.calibration_chosen_by}.",
        _review(m),
        *_promotion(m),
        "## Figures",
        f"Intervals: {INTERVALS}.",
        *_baselines(m.metrics),
        _metrics(m.metrics),
        *variant_section(m),
        *_gate(m),
        "## Input",
        _input(m),
        "## Where it comes from",
        _provenance(m),
        "## Licence",
        f"Weights: {m.licence.weights}. Commercial use: {'yes' if m.licence.commercial_use else 'no'}. {m.licence.notes}",
        *_research_licence(m),
        "## Source attributes",
        "The 31 source attributes of 45 CFR 170.315(b)(11)(iv)(B) (ONC HTI-1).",
        _attributes(m),
    ]
    return "\n\n".join(parts) + "\n"


def number(value: float, interval: tuple[float, float] | None, *, signed: bool = False) -> str:
    """`0.9710 (0.9600 to 0.9800)`; signed, for a change: `-0.0010 (-0.0030 to +0.0010)`."""
    shown = "+.4f" if signed else ".4f"
    return f"{value:{shown}}" + (f" ({interval[0]:{shown}} to {interval[1]:{shown}})" if interval else "")


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(header)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _restriction(m: Manifest) -> list[str]:
    """First of all, where the bundle is not for patients."""
    if m.research_label is None:
        return []
    failed = m.promotion.failed if m.promotion else ()
    words = f"**{m.research_label}.** Not for patients."
    if failed:
        listed = "; ".join(failed)
        words += f" It serves only where `--accept-failed-gate` was given. Lines of the promotion policy that failed: {listed}."
    return [words]


def _promotion(m: Manifest) -> list[str]:
    """Every line of the policy, passed or failed; a bundle without one says so."""
    if m.promotion is None:
        return ["## Promotion", "Exported before there were promotion policies: no policy was asked."]
    p = m.promotion
    rows = [("passed" if x.passed else "**failed**", x.name, x.wanted, x.measured) for x in p.lines]
    head = f"Policy `{p.policy}` (digest {p.policy_digest[:16]}): {p.label}."
    return ["## Promotion", head, table(("", "line", "wanted", "measured"), rows)]


def _baselines(metrics: Iterable[Metric]) -> list[str]:
    names = sorted({x.baseline.name for x in metrics if x.baseline})
    if not names:
        return []
    return [
        (
            f"`beside`: what {' or '.join(names)} reaches on the same films. It sees no lung sharply: what it reaches can be had from "
            "the coarse look of a film."
        )
    ]


def _research_licence(m: Manifest) -> list[str]:
    if m.licence.commercial_use:
        return []
    return [
        (
            "For research only: at least one training source does not allow commercial use, and the weights follow the strictest "
            "licence among the training films. Whoever passes them on keeps this licence and the attributions above, and asks the "
            "sources' authors before any commercial use."
        )
    ]


def _attributes(m: Manifest) -> str:
    found = attributes.source_attributes(attributes.facts_of_manifest(m))
    return table(("", "attribute", "statement"), [(a.number, a.name, a.text or "**missing**") for a in found])


def _sentence(m: Manifest) -> str:
    return f"{m.task.capitalize()} classifier ({', '.join(m.classes)}), {m.network.architecture}."


def _use(m: Manifest) -> str:
    use = m.intended_use
    ages = f"{use.age_years[0]:g} to {use.age_years[1]:g} years" if use.age_years else "not stated"
    rows = (
        ("Population", use.population),
        ("Age", ages),
        ("Views", ", ".join(use.views)),
        ("Purpose", use.purpose),
        ("Limits", use.limits),
    )
    return table(("", ""), rows)


def _point(m: Manifest, p: OperatingPoint) -> str:
    default = " (default)" if p.name == m.default_operating_point else ""
    thresholds = ", ".join(f"{name} {_threshold(value)}" for name, value in p.thresholds.items())
    lines = [f"**{p.name}**{default} ({p.rule}): {p.target}; threshold {thresholds or 'none'}."]
    if p.priority:
        lines.append(f"The first of {', '.join(p.priority)} that reaches its threshold, else {p.fallback}.")
    lines += [
        f"{name}: sensitivity {_estimate(x.sensitivity)}, specificity {_estimate(x.specificity)} on {x.data} (n = {x.n})."
        for name, x in p.measured.items()
    ]
    if p.conformal is not None:
        c = p.conformal
        lines.append(
            f"Prediction sets: coverage {_estimate(c.coverage)}, mean size {_estimate(c.mean_set_size)} on {c.data} (n = {c.n})."
        )
    return " ".join(lines)


def _threshold(margin: float) -> str:
    """Where no threshold could be derived, one beyond any margin stands in its place."""
    return f"{margin:.4f}" if abs(margin) < BEYOND else ("never reached" if margin > 0 else "always reached")


def _review(m: Manifest) -> str:
    return (
        f"A human must look where the confidence is below {m.review.low_confidence_below:g}, the margin lies within "
        f"{m.review.borderline_margin:.4f} of its threshold, or the film's mean gray level is outside "
        f"{m.quality.under_exposed_mean_below:.1f} to {m.quality.over_exposed_mean_above:.1f} or its standard deviation below "
        f"{m.quality.low_contrast_std_below:.1f}."
    )


def _metrics(metrics: Sequence[Metric]) -> str:
    """One row per figure; a column for the baseline only where there is one."""
    rows = [(x.data, x.name, number(x.value, x.ci), str(x.n)) for x in metrics]
    if not any(x.baseline for x in metrics):
        return table(("films", "figure", "value", "n"), rows)
    beside = [number(x.baseline.value, x.baseline.ci) if x.baseline else "" for x in metrics]
    return table(
        ("films", "figure", "value", "beside", "n"), [(*r[:3], b, r[3]) for r, b in zip(rows, beside, strict=True)]
    )


def variant_section(m: Manifest) -> list[str]:
    """Title, words and tables: other engines and precisions, with what each costs; nothing for a bundle of the reference alone."""
    if not m.variants:
        return []
    words = (
        f"The figures above are those of `{REFERENCE_VARIANT}`, by which every film can be judged. What others change, film by film on the "
        f"{m.variants[0].measured.data} (n = {m.variants[0].measured.n}); a bound stands behind each figure, and a variant that breaks "
        "one is never served. `its own`: what was fitted again, by the same rules, on what the variant computes."
    )
    rows = [
        (
            f"`{v.name}`",
            "yes" if v.admitted else "**no**",
            f"{v.measured.logit_shift_max:.4f}, mean {v.measured.logit_shift_mean:.4f} (<= {v.bounds.logit:g})",
            "; ".join(f"{name} {count}" for name, count in v.measured.flips.items())
            + f" (<= {int(v.bounds.flips * v.measured.n)})",
            _own(v),
        )
        for v in m.variants
    ]
    changes = [
        (f"`{v.name}`", name, number(x.value, x.ci, signed=True), f"{-v.bounds.auroc_loss:+g}")
        for v in m.variants
        for name, x in v.measured.auroc_change.items()
    ]
    return [
        "## Variants",
        words,
        table(("variant", "admitted", "change of a logit, largest", "decisions changed", "its own"), rows),
        "Change of the AUROC, both sides resampled alike by patients; the lower end of the interval is held against the bound.",
        table(("variant", "class", "change of the AUROC", "bound"), changes),
    ]


def _own(variant: Variant) -> str:
    kinds = {"calibration": variant.calibration, "thresholds": variant.thresholds}
    return " and ".join(name for name, fitted in kinds.items() if fitted is not None) or "-"


def _gate(m: Manifest) -> list[str]:
    """What the bundle refuses to judge, and how well it tells; nothing for a bundle that judges anything."""
    if m.gate is None:
        return []
    header = m.gate.header
    words = (
        f"A DICOM header must say modality {_either(header.modalities)}, body part {_either(header.body_parts)}, view "
        f"{_either(header.views)}; digitised films ({_either(header.film_modalities) or 'none'}) are taken with a warning."
    )
    actions = table(("finding", "action"), sorted(m.gate.actions.items()))
    return ["## Gate", words, actions, *_picture_gate(m.gate.picture)]


def _picture_gate(picture: PictureGate | None) -> list[str]:
    if picture is None:
        return ["Pictures are not looked at."]
    limits = (
        f"A picture is no chest film where its distance is above {picture.distance_above:.4f}, or that of the classifier's features "
        f"above {picture.network_distance_above:.4f}; a pose other than upright counts from a probability of "
        f"{picture.pose_probability_at_least:g} on (temperature {picture.temperature:.4f})."
    )
    measured = (
        "Measured on films and pictures that set neither weights nor limits; 95 % intervals by Wilson, film by film. The augmentation "
        "and the rule of the limit were settled after a look at an earlier gate's answers to some of these films, so expect a little "
        "less of new ones. `false_refusal`: "
        "sound upright films that are refused. `refusal`: what must not be judged and is refused, for whatever reason. `right_pose`: "
        "refused with the right reason. `refused_or_warned`: not judged silently."
    )
    rows = [(f.name, f.data, number(f.value, f.ci), str(f.n)) for f in picture.false_refusal]
    return [limits, measured, table(("figure", "pictures", "value", "n"), rows)]


def _either(words: Iterable[str]) -> str:
    return " or ".join(words)


def _input(m: Manifest) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in m.input.model_dump(mode="json", exclude_none=True).items())
    return f"`image` {m.input.channels} x {m.input.size} x {m.input.size}: {facts}."


def _provenance(m: Manifest) -> str:
    p = m.provenance
    rows = [
        ("Recipe", f"{p.recipe}, digest {p.recipe_digest}, seed {p.seed}"),
        ("Parent bundle", p.parent_digest or "none: trained from its recipe alone"),
        ("Code", p.git_commit),
        ("Made", f"{p.created_at}, {p.duration_s / 60:.0f} minutes on {p.hardware}"),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in sorted(p.libraries.items()))),
    ]
    rows += [(f"Data: {d.name}", f"{d.images} films, digest {d.digest}; {d.licence}; {d.attribution}") for d in p.data]
    return table(("", ""), rows)


def _estimate(e: Estimate) -> str:
    return number(e.value, e.ci)
