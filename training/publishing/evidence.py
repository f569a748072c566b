"""Where a run's folder says what: the one reader of the figures' JSON for promotion, export, card, report and README.

A figure that is not there is None here, never a default: whoever asks must say that it is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.bundle.manifest import Baseline, Estimate, Metric
from training.judging.figures import READ_OFF
from training.recipe import Recipe
from training.runs import Run

REPORT_CLEAN = "validation, report half"
REPORT_MIX = "validation, report half, clean and corrupted"
HARD = "hard validation"
SLICES = "slices of the report half"
EXTERNAL = "external: "  # what the names of external sets begin with
OFFICIAL, TEST = "official test", "test patients"
SCORES = ("auroc", "auprc", "brier", "nll", "ece", "ece_equal_width", "ece_top_label", READ_OFF)
BRIEF = ("auroc", "auprc", "brier", "ece")  # what is kept per class where there are many classes


@dataclass(frozen=True)
class Figures:
    """What a run's figures files hold; None for a step that was not taken. Each as its step wrote it (JSON)."""

    recipe: Recipe
    hard: dict[str, Any] | None
    report: dict[str, Any] | None
    test: dict[str, Any] | None
    external: dict[str, Any] | None
    checks: dict[str, Any] | None
    shortcuts: dict[str, Any] | None

    @property
    def test_name(self) -> str:
        return OFFICIAL if self.recipe.data.test == "upstream" else TEST

    def described(self, on: str) -> dict[str, Any] | None:
        """One scored set: `clean` and `mix` of the report half, or `test`."""
        holder = self.test if on == "test" else self.report
        found: dict[str, Any] | None = None if holder is None else holder.get(on)
        return found

    def score(self, on: str, output: str, figure: str) -> Estimate | None:
        """A threshold-free figure of one class against the rest."""
        return _estimate(self.described(on), "classes", output, "scores", figure)

    def rate(self, on: str, point: str, name: str, figure: str) -> Estimate | None:
        """A rate of one class at an operating point."""
        return _estimate(self.described(on), "points", point, "classes", name, figure)

    def halves_auroc(self) -> dict[str, float]:
        """(Macro) AUROC of the report half: `clean` and `<kind>-<severity>`; empty before the hard validation."""
        found: dict[str, float] = (self.hard or {}).get("halves_auroc", {}).get("report", {})
        return {name: value for name, value in found.items() if value is not None}


def load_figures(run: Run) -> Figures:
    """Everything that the steps left in the run's folder."""
    steps = ("hard", "report", "test", "external", "checks", "shortcuts")
    return Figures(run.recipe, *(run.optional_json(f"figures-{step}.json") for step in steps))


def slice_facts(figures: Figures) -> dict[str, dict[str, Any]]:
    """Fact -> value -> {n, auroc, accuracy, classes, gaps, ...} of the slices; empty before the checks."""
    found: dict[str, dict[str, Any]] = (figures.checks or {}).get("slices") or {}
    return found


def slice_gaps(figures: Figures, figure: str, min_films: int) -> dict[str, dict[str, Estimate]]:
    """Fact -> value -> the slice's figure less that of all other films, where both sides can be compared."""
    found: dict[str, dict[str, Estimate]] = {}
    for fact, values in slice_facts(figures).items():
        for value, row in values.items():
            gap = row["gaps"].get(figure)
            if gap is not None and row["n"] >= min_films:
                found.setdefault(fact, {})[value] = Estimate(value=gap["value"], ci=gap["ci"])
    return found


def _estimate(figures: Mapping[str, Any] | None, *path: str) -> Estimate | None:
    node: Any = figures
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return None if node is None else Estimate.model_validate(node)


def metrics(figures: Figures) -> list[Metric]:
    """Every figure of the run for the manifest: hard validation, report half, external sets and, where it was looked at, the test.

    Names: `auroc` (binary: of the positive class; else the mean over the classes), `auroc[tuberculosis]`, `f1[hernia]@max-f1`,
    `accuracy@argmax`, `macro_ppv@max-f1`. Per source: the scores alone.
    """
    found = _hard_metrics(figures)
    for data, described in _sets(figures):
        found += _set_metrics(figures, data, described)
    for data, described in _parts(figures):
        found += _score_metrics(figures.recipe, data, described)
    found += _slice_metrics(figures)
    beside = _baselines(figures)
    return [m.model_copy(update={"baseline": beside.get((m.data, m.name))}) for m in found]


def _sets(figures: Figures) -> Iterator[tuple[str, dict[str, Any]]]:
    names = {"clean": REPORT_CLEAN, "mix": REPORT_MIX, "test": figures.test_name}
    for on, data in names.items():
        described = figures.described(on)
        if described is not None and described["n"]:
            yield data, described


def _parts(figures: Figures) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sets of one source, and the external sets."""
    for holder, data in ((figures.report, REPORT_CLEAN), (figures.test, figures.test_name)):
        for folder, described in sorted((holder or {}).get("sources", {}).items()):
            if described["n"]:
                yield f"{data}, {folder}", described
    for name, described in sorted(external_sets(figures).items()):
        if described["n"]:
            yield f"{EXTERNAL}{name}", described


def external_sets(figures: Figures) -> dict[str, dict[str, Any]]:
    """describe() of each external set by name; empty where there is none."""
    content = figures.external or {}
    found: dict[str, dict[str, Any]] = {k: v for k, v in content.items() if isinstance(v, dict) and "classes" in v}
    return found


def _set_metrics(figures: Figures, data: str, described: dict[str, Any]) -> list[Metric]:
    recipe, n = figures.recipe, described["n"]
    found = _score_metrics(recipe, data, described)
    for point, content in described.get("points", {}).items():
        rates = dict(content.get("overall", {}))
        sets = content.get("rule") == "conformal"
        for name in recipe.data.classes if sets else rated(recipe):
            tag = f"[{name}]" if sets or recipe.data.task != "binary" else ""
            rates |= {f"{k}{tag}": v for k, v in content.get("classes", {}).get(name, {}).items()}
        found += [Metric(name=f"{k}@{point}", data=data, n=n, **v) for k, v in rates.items()]
    return found


def _score_metrics(recipe: Recipe, data: str, described: dict[str, Any]) -> list[Metric]:
    """Scores over all classes, then of each class."""
    outputs = recipe.data.outputs
    if len(outputs) == 1:
        only = described["classes"].get(outputs[0], {"scores": {}})
        return [Metric(name=k, data=data, n=described["n"], **v) for k, v in only["scores"].items()]
    found = [Metric(name=k, data=data, n=described["n"], **v) for k, v in described.get("macro", {}).items()]
    for name in outputs:
        of_class = described["classes"].get(name)
        if of_class:
            kept = {k: v for k, v in of_class["scores"].items() if k in BRIEF}
            found += [Metric(name=f"{k}[{name}]", data=data, n=of_class["n"], **v) for k, v in kept.items()]
    return found


def rated(recipe: Recipe) -> tuple[str, ...]:
    """The classes whose rates are shown: the positive one of a binary recipe, else every class."""
    return recipe.data.outputs


def _hard_metrics(figures: Figures) -> list[Metric]:
    """The figures by which runs are compared; without intervals, since the films are the same for all."""
    hard = figures.hard
    if hard is None:
        return []
    found = [
        Metric(name=k, data=HARD, value=hard[k], n=hard["n"]) for k in ("selection", "corrupted_auroc", "clean_auroc")
    ]
    for name, value in sorted(hard.get("external_auroc", {}).items()):
        if value is not None:
            found.append(Metric(name=f"auroc, {name}", data=HARD, value=value, n=hard["external_n"][name]))
    return found


def _slice_metrics(figures: Figures) -> list[Metric]:
    """AUROC of each slice of the report half that can be compared with the others."""
    return [
        Metric(name="auroc", data=f"{SLICES}, {fact} {value}", n=row["n"], **row["auroc"])
        for fact, values in sorted(slice_facts(figures).items())
        for value, row in values.items()
        if "auroc" in row and "auroc" in row["gaps"]
    ]


def _baselines(figures: Figures) -> dict[tuple[str, str], Baseline]:
    """(data, name) -> what the thumbnail classifier reaches of the same figure on the same films."""
    content = (figures.shortcuts or {}).get("baseline") or {}
    sets = ((REPORT_CLEAN, content.get("clean")), (figures.test_name, content.get("test")))
    found = [
        m for data, described in sets if described and described["n"] for m in _set_metrics(figures, data, described)
    ]
    return {(m.data, m.name): Baseline(name=content["name"], value=m.value, ci=m.ci) for m in found}
