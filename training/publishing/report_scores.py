"""The report's sections on what the network tells and decides: scores, curves, calibration, operating points, sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.judging.decide import Fixed
from training.judging.scored import Scored
from training.publishing import plots
from training.publishing.evidence import SCORES, Figures, external_sets
from training.publishing.page import cell, missing, note, section, table, text

TEST_MISSING = "figures-test.json; `evaluate --split test` looks at the test split, once"
Described = Mapping[str, Any]


def described_sets(figures: Figures) -> dict[str, Described]:
    """Name -> describe() of the sets with all films of a part."""
    names = {"report half, clean": "clean", "report half, clean and corrupted": "mix", "test": "test"}
    found = {name: figures.described(on) for name, on in names.items()}
    return {name: d for name, d in found.items() if d is not None and d["n"]}


def scores(figures: Figures) -> str:
    """Threshold-free figures of each class and their mean, per set, the thumbnail classifier beside them."""
    sets = described_sets(figures)
    outputs = figures.recipe.data.outputs
    rows, kept = [], [k for k in SCORES if any(k in d["macro"] for d in sets.values())]
    for name, described in sets.items():
        if len(outputs) > 1:
            rows.append(
                [_mean_of(name, described), str(described["n"]), "", *(cell(described["macro"].get(k)) for k in kept)]
            )
        rows += [_score_row(f"{name}: {output}", described["classes"].get(output), kept) for output in outputs]
    baseline = (figures.shortcuts or {}).get("baseline") or {}
    for on, words in (("clean", "report half, clean"), ("test", "test")):
        classes = (baseline.get(on) or {}).get("classes", {})
        rows += [_score_row(f"{baseline['name']}, {words}: {c}", classes.get(c), kept) for c in outputs if classes]
    parts = [
        note("95 % intervals by a bootstrap over patients; each class against the rest."),
        table(("films", "n", "with it", *kept), rows),
    ]
    if not baseline:
        parts.append(missing("the thumbnail classifier beside these figures (figures-shortcuts.json; `checks`)"))
    if figures.test is None:
        parts.append(missing(TEST_MISSING))
    return section("Scores", *parts)


def _mean_of(name: str, described: Described) -> str:
    """A class without films on both sides has no AUROC, and the mean is over the others."""
    counted = sum("auroc" in content["scores"] for content in described["classes"].values())
    every = len(described["classes"])
    return f"{name}: mean of classes" + ("" if counted == every else f" (AUROC: of {counted} of {every})")


def _score_row(name: str, content: Described | None, kept: list[str]) -> list[str]:
    if content is None:
        return [name, "0", "0", *("-" for _ in kept)]
    return [name, str(content["n"]), str(content["positives"]), *(cell(content["scores"].get(k)) for k in kept)]


def curves(sets: Mapping[str, Scored], fixed: Fixed) -> str:
    last = list(sets.values())[-1]
    return section(
        "Curves",
        note(
            "Marks on the ROC: the thresholds of the operating points, one class against the rest, on the last of the sets."
        ),
        plots.roc(sets, fixed),
        plots.precision_recall(sets, fixed),
        plots.histograms(last, fixed),
    )


def calibration(sets: Mapping[str, Scored], fixed: Fixed, figures: Figures) -> str:
    """Before and after, on films that chose the calibrator and between runs (report half) or nothing at all (test)."""
    rows = [
        (f"{name}: {figure}", cell(change.get("before")), cell(change.get("after")), cell(change.get("difference")))
        for name, described in described_sets(figures).items()
        for figure, change in described.get("calibration", {}).items()
    ]
    return section(
        "Calibration",
        note(f"{fixed.calibration.method}, chosen by: {fixed.calibration_chosen_by}."),
        note(
            "The report half chose between the calibrators, and with the fit half between runs, so its figures after calibration "
            "flatter; the test films chose nothing."
        ),
        table(("figure, mean of classes", "before", "after", "difference"), rows) if rows else "",
        plots.reliability(sets, fixed),
    )


def points(figures: Figures) -> str:
    """Every operating point on every set: rates of each class, over all, and what a hierarchical one costs."""
    sets, parts = described_sets(figures), []
    names = list(
        dict.fromkeys(p for d in sets.values() for p, c in d["points"].items() if c.get("rule") != "conformal")
    )
    for point in names:
        having = {name: d["points"][point] for name, d in sets.items() if point in d["points"]}
        rates = list(dict.fromkeys(k for c in having.values() for r in c["classes"].values() for k in r))
        rows = [
            (f"{name}: {of_class}", *(cell(row.get(k)) for k in rates))
            for name, content in having.items()
            for of_class, row in content["classes"].items()
        ]
        overall = [(f"{name}: {k}", cell(v)) for name, c in having.items() for k, v in c["overall"].items()]
        parts += [
            f"<h3>{text(point)}</h3>",
            table(("films: class", *rates), rows),
            table(("over all classes", ""), overall),
        ]
        parts += _price(having)
    return section("Operating points", *parts) if parts else section("Operating points", missing("no operating point"))


def _price(having: Mapping[str, Described]) -> list[str]:
    """What a risk-prioritised point takes from the fallback class (S1-29)."""
    keys = ("recall", "argmax_recall", "difference")
    rows = [(name, *(cell(c["price"].get(k)) for k in keys)) for name, c in having.items() if "price" in c]
    if not rows:
        return []
    return [
        note("The price of the priority: recall of the fallback class under it, beside that of argmax."),
        table(("films", "recall under the policy", "recall under argmax", "difference"), rows),
    ]


def confusions(figures: Figures) -> str:
    """Counts; rows are the truth."""
    parts = [
        f"<h3>{text(name)}, {text(point)}</h3>{_confusion(content['confusion'])}"
        for name, described in described_sets(figures).items()
        for point, content in described["points"].items()
        if "confusion" in content
    ]
    return section("Confusion", *parts)


def _confusion(counts: Mapping[str, Mapping[str, int]]) -> str:
    columns = list(next(iter(counts.values())))
    rows = [(truth, *(str(row[c]) for c in columns)) for truth, row in counts.items()]
    return table(("truth \\ answer" if set(columns) == set(counts) else "label", *columns), rows)


def conformal(figures: Figures) -> str:
    """Coverage and size of the prediction sets, and which sets were given to which films."""
    parts = list(_conformal_parts(figures))
    return section("Conformal sets", *(parts or [note("The recipe has no conformal operating point.")]))


def _conformal_parts(figures: Figures) -> Iterator[str]:
    for name, described in described_sets(figures).items():
        for point, content in described["points"].items():
            if content.get("rule") != "conformal":
                continue
            yield f"<h3>{text(name)}, {text(point)}</h3>"
            rows = [(k, cell(v)) for k, v in content["overall"].items()]
            rows += [(f"coverage of {c}", cell(row.get("coverage"))) for c, row in content["classes"].items()]
            yield table(("", ""), rows)
            sets = content.get("sets") or {}
            given = sorted({label for row in sets.values() for label in row})
            if given:
                yield table(
                    ("truth \\ set", *given), [(t, *(str(row.get(s, 0)) for s in given)) for t, row in sets.items()]
                )


def sources(figures: Figures) -> str:
    """Scores of each source by itself, and of the external sets."""
    rows = []
    for part, holder in (("report half", figures.report), ("test", figures.test)):
        for folder, described in sorted((holder or {}).get("sources", {}).items()):
            rows += _macro_rows(f"{part}, {folder}", described, figures)
    outside = external_sets(figures)
    for name, described in sorted(outside.items()):
        rows += _macro_rows(f"external, {name}", described, figures)
    parts = [table(("films", "n", *SCORES[:5]), rows)]
    if figures.external is None:
        parts.append(missing("figures-external.json; `evaluate --split external`"))
    elif not outside:
        parts.append(note("The recipe has no external set."))
    return section("Per source", *parts)


def _macro_rows(name: str, described: Described, figures: Figures) -> list[list[str]]:
    """Of all classes together, then of each where there are several."""
    outputs = figures.recipe.data.outputs
    if not described["n"]:
        return [[name, "0", *("-" for _ in SCORES[:5])]]
    rows = [[name, str(described["n"]), *(cell(described["macro"].get(k)) for k in SCORES[:5])]]
    if len(outputs) > 1:
        for output in outputs:
            content = described["classes"].get(output, {"scores": {}})
            shown = [cell(content["scores"].get(k)) for k in SCORES[:5]]
            rows.append([f"{name}: {output}", str(content.get("positives", 0)), *shown])
    return rows
