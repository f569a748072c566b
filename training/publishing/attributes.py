"""The 31 source attributes of a predictive decision support intervention, 45 CFR 170.315(b)(11)(iv)(B) (ONC HTI-1), as fields.

Each is a sentence made from what the bundle or the run states. "" = not known, which fails the promotion; a statement that something
was not done ("No evaluation has been published.") is known. Numbers are those of the rule: (1)(i) to (9)(ii).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.bundle.input_spec import InputSpec
from app.bundle.manifest import IntendedUse, Manifest, Metric
from app.errors import ConfigurationError
from training.data.sources import intended_use
from training.publishing import evidence
from training.publishing.evidence import EXTERNAL, HARD, OFFICIAL, REPORT_CLEAN, REPORT_MIX, SLICES, TEST, Figures
from training.publishing.policy import Policy, Statements, load_policy

CARD = "model card: source attributes"  # the line of a promotion that says whether all of them are known
Shortcuts = Literal["held", "failed", "not asked"]
SHORTCUTS: Mapping[Shortcuts, str] = {
    "held": "Probes that see no sharp lung measure what the source or a mark gives away; the policy asks for them, and found no shortcut.",
    "failed": "Probes that see no sharp lung measure what the source or a mark gives away: the policy asks for them, and the network "
    "did not pass (see the promotion's lines): it may read the source or a mark instead of the disease.",
    "not asked": "No policy that it was held against asks for shortcut probes: the network may read the source or a mark.",
}
REPORTS, TESTS = (REPORT_CLEAN, REPORT_MIX), (OFFICIAL, TEST)


@dataclass(frozen=True)
class SourceAttribute:
    """number: "1.i" to "9.ii"; name: of the rule, shortened; text: "" where it is not known."""

    number: str
    name: str
    text: str


@dataclass(frozen=True)
class Facts:
    """What the attributes are made from. sources: one phrase per training source; metrics: as in the manifest; sliced: whether the
    slices were looked at, be they large enough to be compared or not; bounded: whether the policy bounds their gaps; shortcuts: what
    became of the policy's lines on shortcuts."""

    task: str
    classes: tuple[str, ...]
    outputs: tuple[str, ...]
    intended_use: IntendedUse | None
    input: InputSpec
    sources: tuple[str, ...]
    metrics: tuple[Metric, ...]
    statements: Statements
    sliced: bool
    bounded: bool
    shortcuts: Shortcuts


def facts_of_run(figures: Figures, policy: Policy) -> Facts:
    """Before there is a manifest: from the recipe, the figures and the policy that they are held against."""
    recipe = figures.recipe
    verdict = (figures.shortcuts or {}).get("verdict", [])
    return Facts(
        recipe.data.task,
        recipe.data.classes,
        recipe.data.outputs,
        _intended_use(figures),
        recipe.input,
        recipe.data.folders,
        tuple(evidence.metrics(figures)),
        policy.statements,
        bool(figures.checks and "slices" in figures.checks),
        policy.slices is not None,
        _shortcuts([bool(line["passed"]) for line in verdict] or [False]) if policy.shortcuts else "not asked",
    )


def facts_of_manifest(m: Manifest) -> Facts:
    """Of a bundle; its statements are those of the policy that judged it (of the default one where none did)."""
    outputs = m.classes[1:] if m.task == "binary" else m.classes
    sources = tuple(f"{d.name} ({d.images} films)" for d in m.provenance.data)
    lines = m.promotion.lines if m.promotion else ()
    sliced = m.promotion is not None and all(line.passed for line in lines if line.name == CARD)
    return Facts(
        m.task,
        m.classes,
        outputs,
        m.intended_use,
        m.input,
        sources,
        m.metrics,
        _statements(m),
        sliced,
        any(line.name.startswith("slices:") for line in lines),
        _shortcuts([line.passed for line in lines if line.name.partition(":")[0].endswith(" shortcut")]),
    )


def _shortcuts(passed: Sequence[bool]) -> Shortcuts:
    if not passed:
        return "not asked"
    return "held" if all(passed) else "failed"


def source_attributes(facts: Facts) -> tuple[SourceAttribute, ...]:
    """All 31, in the order of the rule."""
    rows = {**_output(facts), **_purpose(facts), **_development(facts), **_validation(facts), **_upkeep(facts)}
    return tuple(SourceAttribute(number, NAMES[number], rows[number]) for number in NAMES)


def _output(f: Facts) -> dict[str, str]:
    s = f.statements
    listed = ", ".join(f.classes)
    return {
        "1.i": s.developer,
        "1.ii": s.funding,
        "1.iii": f"A calibrated risk score in 0..1 for each of {listed}, a decision at a named operating point, reasons for review, "
        "and a heat map of what the score rests on.",
        "1.iv": "Classification, with the score it rests on.",
    }


def _purpose(f: Facts) -> dict[str, str]:
    use, s = f.intended_use, f.statements
    ages = f", {use.age_years[0]:g} to {use.age_years[1]:g} years" if use and use.age_years else ""
    return {
        "2.i": use.purpose if use else "",
        "2.ii": f"Radiographs of {use.population}{ages}; views {', '.join(use.views) or 'not stated'}." if use else "",
        "2.iii": s.users,
        "2.iv": s.role,
        "3.i": use.limits if use else "",
        "3.ii": _risks(f),
    }


def _risks(f: Facts) -> str:
    """Known limits that the figures show: a source that gives the class away, a drop on films from elsewhere."""
    found = ["A score is calibrated within this data and is no clinical probability elsewhere."]
    for metric in f.metrics:
        if metric.baseline is not None and metric.name == "auroc":
            found.append(
                f"{metric.baseline.name} reaches {metric.name} {metric.baseline.value:.3f} on {metric.data} (the network "
                f"{metric.value:.3f}): that much is to be had from the coarse look of a film."
            )
            break
    found += [
        f"On films from elsewhere ({m.data.removeprefix(EXTERNAL)}) AUROC is {m.value:.3f}."
        for m in _scores(f, EXTERNAL)
    ]
    return " ".join(found)


def _development(f: Facts) -> dict[str, str]:
    s = f.statements
    return {
        "4.i": f"Included: films of {', '.join(f.sources)}, by the sources' labels; left out: films without one of the labels, patients "
        "of the test part and duplicates across the parts.",
        "4.ii": f"None of race, ethnicity, language, sexual orientation, gender identity, sex, date of birth, social determinants or "
        f"health status enters: the input is the film's gray values alone ({f.input.size} x {f.input.size} px).",
        "4.iii": "The sources state neither race, ethnicity, language nor social determinants."
        + (f" {_slices(f)}" if _slices(f) else ""),
        "4.iv": f"Trained on {f.intended_use.population}; other places, devices and ages are not represented."
        if f.intended_use
        else "",
        "5.i": s.fairness if f.bounded else "None: no policy that it was held against bounds a gap between groups.",
        "5.ii": f"Films are dealt out by patient, never by file. {SHORTCUTS[f.shortcuts]}",
    }


def _validation(f: Facts) -> dict[str, str]:
    s = f.statements
    outside = sorted({m.data.removeprefix(EXTERNAL) for m in f.metrics if m.data.startswith(EXTERNAL)})
    none = "None: it was tested on no films from elsewhere."
    listed = ", ".join(outside)
    return {
        "6.i": f"Sets that were never trained on: {listed}." if outside else none,
        "6.ii": s.external_party if outside else none,
        "6.iii": "As far as the sets' own labels say; no race, ethnicity, language or social determinants are stated."
        if outside
        else none,
        "6.iv": f"The finished network was run once over each set; calibration and thresholds stayed as they were.{_selecting(f)}"
        if outside
        else none,
        "7.i": _listed([m for data in (*REPORTS, *TESTS) for m in _scores(f, data, exact=True)]),
        "7.ii": _slices(f),
        "7.iii": _listed(_scores(f, EXTERNAL)) or ("" if outside else none),
        "7.iv": "Not measured: the sets from elsewhere are too small to be cut into groups." if outside else none,
        "7.v": s.outcomes,
    }


def _upkeep(f: Facts) -> dict[str, str]:
    s = f.statements
    return {
        "8.i": s.monitoring,
        "8.ii": s.local_validity,
        "8.iii": s.fairness_monitoring,
        "8.iv": s.local_fairness,
        "9.i": s.updates,
        "9.ii": s.corrections,
    }


def _selecting(f: Facts) -> str:
    """Where sets from elsewhere chose between runs, their figures flatter. The selection figure is the corrupted AUROC where none did."""
    hard = {m.name: m.value for m in f.metrics if m.data == HARD}
    if "selection" not in hard or hard["selection"] == hard.get("corrupted_auroc"):
        return ""
    return " The recipe counts some of them in the figure by which runs are chosen, so theirs flatter."


def _scores(f: Facts, data: str, *, exact: bool = False) -> list[Metric]:
    """AUROC (of the positive class, or the mean over the classes) on sets whose name begins so."""
    return [m for m in f.metrics if m.name == "auroc" and (m.data == data if exact else m.data.startswith(data))]


def _listed(found: Sequence[Metric]) -> str:
    def one(m: Metric) -> str:
        interval = f" ({m.ci[0]:.4f} to {m.ci[1]:.4f})" if m.ci else ""
        return f"AUROC {m.value:.4f}{interval} on {m.data} (n = {m.n})"

    return "; ".join(one(m) for m in found) + ("." if found else "")


def _slices(f: Facts) -> str:
    found = [m for m in f.metrics if m.data.startswith(SLICES)]
    shown = "; ".join(
        f"{m.data.removeprefix(SLICES + ', ')} {m.value:.3f} (n = {m.n})" for m in found if m.name == "auroc"
    )
    if shown:
        return f"AUROC by slice: {shown}."
    return "Not known: no fact of the films has two groups that are large enough to be compared." if f.sliced else ""


def _intended_use(figures: Figures) -> IntendedUse | None:
    try:
        return intended_use(figures.recipe)
    except ConfigurationError:  # a source of which nothing is known: the attribute is missing
        return None


def _statements(m: Manifest) -> Statements:
    try:
        return load_policy(m.promotion.policy if m.promotion else "default").statements
    except ConfigurationError:  # the policy is no longer here
        return Statements()


NAMES: Mapping[str, str] = {
    "1.i": "developer and contact",
    "1.ii": "funding of the development",
    "1.iii": "value that it produces as an output",
    "1.iv": "kind of output",
    "2.i": "intended use",
    "2.ii": "intended patient population",
    "2.iii": "intended users",
    "2.iv": "intended decision-making role",
    "3.i": "cautioned out-of-scope tasks, situations and populations",
    "3.ii": "known risks, inappropriate settings and limitations",
    "4.i": "inclusion and exclusion criteria of the training data",
    "4.ii": "use of demographic and health variables as inputs",
    "4.iii": "demographic representativeness of the training data",
    "4.iv": "relevance of the training data to the intended setting",
    "5.i": "approach to a fair output",
    "5.ii": "approaches to reduce bias",
    "6.i": "external validation: data source, setting",
    "6.ii": "external validation: party",
    "6.iii": "external validation: demographic representativeness",
    "6.iv": "external validation: process",
    "7.i": "validity in test data of the same source",
    "7.ii": "fairness in test data of the same source",
    "7.iii": "validity in external data",
    "7.iv": "fairness in external data",
    "7.v": "evaluations of use on outcomes",
    "8.i": "monitoring of validity: process and frequency",
    "8.ii": "validity in local data",
    "8.iii": "monitoring of fairness: process and frequency",
    "8.iv": "fairness in local data",
    "9.i": "updates: process and frequency",
    "9.ii": "corrections of performance: frequency",
}
