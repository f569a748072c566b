"""report.html: everything that is known about a run, on one page that loads nothing. Stays in the run's folder.

Every section is there in every report. One whose step was not taken says so; none is left out or filled with a default.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.judging.evaluate import fixed_decision, load_logits
from training.judging.scored import Scored, mix
from training.publishing import plots, report_checks, report_scores
from training.publishing.anchors import COMMON_NOTE, DESIGNS
from training.publishing.evidence import Figures, load_figures, metrics
from training.publishing.page import anchor, cell, link, missing, note, page, plain, section, table, text
from training.runs import Run, write_atomically

FILES = ("promotion.json", "exported.json", "decision.json", "recipe.json", "splits.json", "metrics.jsonl")


def write_report(run: Run) -> Path:
    """Write the page from what the steps left in the run's folder. Raises ConfigurationError before the report step."""
    figures = load_figures(run)
    run.read_json("figures-report.json")
    fixed = fixed_decision(run)
    sets = _sets(run)
    sections = (
        _summary(run, figures),
        report_scores.scores(figures),
        report_scores.curves(sets, fixed),
        report_scores.calibration(sets, fixed, figures),
        report_scores.points(figures),
        report_scores.confusions(figures),
        report_scores.conformal(figures),
        report_scores.sources(figures),
        _hard(figures),
        *report_checks.sections(run, figures),
        _learning(run),
        _designs(figures),
        _reduced(run),
        _decision(fixed.model_dump(mode="json")),
        section("Recipe", f"<pre>{text(json.dumps(run.recipe.model_dump(mode='json'), indent=1))}</pre>"),
        section("Made with", f"<pre>{text(json.dumps(run.optional_json('environment.json'), indent=1))}</pre>"),
    )
    head = f"<h1>{text(run.path.name)}</h1>" + note(run.recipe.title or run.recipe.name)
    path = run.path / "report.html"
    write_atomically(path, page(run.path.name, (head, _contents(sections), *sections)).encode())
    return path


def _sets(run: Run) -> dict[str, Scored]:
    """What the curves are drawn from; the test films last, where they were looked at."""
    kept = load_logits(run, "report")
    sets = {"report half, clean": kept["clean"], "report half, clean and corrupted": mix(list(kept.values()))}
    if (run.path / "logits-test.npz").is_file() and (run.path / "figures-test.json").is_file():
        sets["test"] = load_logits(run, "test")["test"]
    return sets


def _contents(sections: Sequence[str]) -> str:
    titles = [part.partition("</h2>")[0].rpartition(">")[2] for part in sections]
    return "<nav>" + "".join(f"<a href='#{anchor(title)}'>{title}</a>" for title in titles) + "</nav>"


def _summary(run: Run, figures: Figures) -> str:
    """Promotion first: what failed is red."""
    hard: dict[str, Any] = figures.hard or {}
    promotion, exported = run.optional_json("promotion.json"), run.optional_json("exported.json")
    parts = [
        note(
            f"{run.recipe.data.task}: {', '.join(run.recipe.data.classes)}. Recipe {run.recipe.digest[:16]}, seed {run.recipe.seed}, "
            f"weights {str(hard.get('weights_digest', 'unknown'))[:16]}. Selection figure {plain(hard.get('selection'))}."
        )
    ]
    if promotion is None:
        parts.append(missing("promotion.json; `promote` holds the run against its policy"))
    else:
        kind = "" if promotion["passed"] else " class=failed-label"
        failed = [line["name"] for line in promotion["lines"] if not line["passed"]]
        parts.append(f"<p{kind}>Promotion policy {text(promotion['policy'])}: {text(promotion['label'])}</p>")
        if failed:
            parts.append(note(f"{len(failed)} of {len(promotion['lines'])} lines failed: {'; '.join(failed)}."))
        rows = [
            ("passed" if x["passed"] else "FAILED", x["name"], x["wanted"], x["measured"]) for x in promotion["lines"]
        ]
        classes = ["passed" if x["passed"] else "failed" for x in promotion["lines"]]
        parts.append(table(("", "line", "wanted", "measured"), rows, words=True, classes=classes))
    parts.append(note(_bundle(exported)) if exported else missing("no bundle was exported"))
    files = [name for name in FILES if (run.path / name).is_file()]
    return section("Summary", *parts, f"<p>Files: {', '.join(link(name) for name in files)}</p>")


def _bundle(exported: dict[str, Any]) -> str:
    became = "became latest" if exported.get("latest") else "did not become latest"
    return f"Bundle {exported['bundle']} (digest {exported['digest'][:16]}, {exported['size_bytes'] / 1e6:.1f} MB) {became}."


def _hard(figures: Figures) -> str:
    """By what runs are compared."""
    title, hard = "Hard validation", figures.hard
    if hard is None:
        return section(title, missing("figures-hard.json; `evaluate --split hard`"))
    outside = [(k, plain(v), str(hard["external_n"][k])) for k, v in hard["external_auroc"].items()]
    report = (figures.report or {}).get("corruptions", {})
    names = list(next(iter(report.values()), {}))
    rows = [
        (kind, plain(value), *(plain(report.get(kind, {}).get(name)) for name in names))
        for kind, value in hard["auroc"].items()
    ]
    return section(
        title,
        note(
            f"Selection figure {plain(hard['selection'])}: corrupted AUROC {plain(hard['corrupted_auroc'])} (clean "
            f"{plain(hard['clean_auroc'])}), with the selecting external sets. n = {hard['n']}. Means over the classes."
        ),
        table(("external set", "AUROC", "n"), outside) if outside else note("The recipe has no external set."),
        table(("corruption", "AUROC, both halves", *(f"{name}, report half" for name in names)), rows),
    )


def _learning(run: Run) -> str:
    path = run.path / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if not lines:
        return section("Learning curves", missing("metrics.jsonl; `fit`"))
    return section("Learning curves", plots.learning([json.loads(line) for line in lines]))


def _designs(figures: Figures) -> str:
    """Published figures of the source designs that this recipe stands beside."""
    found = {m.name: m for m in metrics(figures) if m.data == figures.test_name}
    beside = [d for d in DESIGNS if figures.recipe.name in d.recipes or figures.recipe.design == d.name]
    if not beside:
        return section("Source designs", note("No source design is reproduced by this recipe."))
    parts = [] if found else [missing("the test split was not looked at; `evaluate --split test`")]
    for design in beside:
        rows = [
            (f.what, f.shown, cell(found[f.metric].model_dump()) if f.metric in found else "-") for f in design.figures
        ]
        parts += [
            note(f"{design.name}: {design.what}. {design.data}."),
            table(("figure", "published", "this run, test"), rows),
            *map(note, design.notes),
        ]
    return section("Source designs", note(COMMON_NOTE), *parts)


def _reduced(run: Run) -> str:
    title, figures = "Original and reduced copies", run.optional_json("figures-reduced.json")
    if figures is None:
        return section(title, missing("figures-reduced.json; `reduced-copies`, where the data folder has originals"))
    keys = ("original", "reduced", "logit_original", "logit_reduced", "difference")
    rows = [[p[k] if isinstance(p[k], str) else plain(p[k]) for k in keys] for p in figures["pairs"]]
    return section(title, note(f"Limit {figures['limit']}."), table([k.replace("_", " ") for k in keys], rows))


def _decision(fixed: dict[str, Any]) -> str:
    """As it goes into the manifest; curves of an isotonic calibration are long, so the text is cut."""
    return section("Calibration, operating points, limits", f"<pre>{text(json.dumps(fixed, indent=1)[:8000])}</pre>")
