"""report.html: everything that is known about a run, on one page that loads nothing. Stays in the run's folder."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from training.judging.decide import mix
from training.judging.evaluate import fixed_decision, load_logits
from training.judging.judge import CLEAN, Scored
from training.publishing import plots
from training.publishing.anchors import ANCHORS
from training.runs import Run, write_atomically

_STYLE = (
    "body{font:14px sans-serif;max-width:1150px;margin:2em auto;padding:0 1em}table{border-collapse:collapse;margin:.5em 0}"
    "td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


def write_report(run: Run) -> Path:
    """Write the page from what the steps left in the run's folder. Raises ConfigurationError before the report step."""
    fixed = fixed_decision(run)
    hard, report = run.read_json("figures-hard.json"), run.read_json("figures-report.json")
    test = _optional(run, "figures-test.json")
    kept = load_logits(run, "hard")
    halves = {n: s for n, s in kept.items() if n.startswith("report/")}
    sets: dict[str, Scored] = {"report, clean": halves[f"report/{CLEAN}"], "report, mix": mix(list(halves.values()))}
    if test:
        sets["test"] = load_logits(run, "test")["test"]
    judged = {name: s.judged(fixed.calibration) for name, s in sets.items()}
    pairs = {name: (plots.uncalibrated(s, judged[name]), judged[name]) for name, s in sets.items()}
    history = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    body = [
        f"<h1>{html.escape(run.path.name)}</h1><p>weights {hard['weights_digest'][:16]}, recipe {run.recipe.digest[:16]}</p>",
        _figures(report, test),
        plots.curves(judged, fixed),
        plots.reliability(pairs),
        plots.histograms(judged, fixed),
        _confusions(report, test),
        _hard(hard, report),
        "<h2>Learning curves</h2>",
        plots.learning(history),
        _decision(fixed.model_dump(mode="json")),
        _shortcuts(_optional(run, "figures-shortcuts.json")),
        _reduced(_optional(run, "figures-reduced.json")),
        f"<h2>Recipe</h2><pre>{html.escape(json.dumps(run.recipe.model_dump(mode='json'), indent=1))}</pre>",
        f"<h2>Made with</h2><pre>{html.escape(json.dumps(run.read_json('environment.json'), indent=1))}</pre>",
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(run.path.name)}</title>'
        f"<style>{_STYLE}</style>{''.join(body)}</html>"
    )
    path = run.path / "report.html"
    write_atomically(path, page.encode())
    return path


def cell(estimate: Mapping[str, Any] | None) -> str:
    """`0.971 (0.960 to 0.980)`, or a dash."""
    if estimate is None:
        return "-"
    interval = estimate.get("ci")
    return f"{estimate['value']:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")


def _optional(run: Run, name: str) -> Any:
    return run.read_json(name) if (run.path / name).is_file() else None


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + line(header, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _figures(report: dict[str, Any], test: dict[str, Any] | None) -> str:
    """Our figures per set and folder, S0's and S2's beside them."""
    sets = {"report, clean": report["clean"], "report, clean and corrupted": report["mix"]}
    sets |= {f"report, {folder}": f for folder, f in report["folders"].items()}
    if test:
        sets["test"] = test["test"]
        sets |= {f"test, {folder}": f for folder, f in test["folders"].items()}
    names = list(report["clean"]["scores"])
    rows = [[f"{name} (n = {f['n']})", *(cell(f["scores"].get(k)) for k in names)] for name, f in sets.items()]
    for anchor in ANCHORS:
        known = {
            "auroc": f"{anchor.auroc:.4f}",
            "auprc": f"{anchor.auprc:.4f}",
            "brier": anchor.brier,
            "ece": anchor.ece,
        }
        rows.append([f"test, {anchor.name}: {anchor.what}", *(known.get(k, "") for k in names)])
    out = "<h2>Scores</h2><p>95 % intervals by a bootstrap over patients.</p>" + _table(["films", *names], rows)
    rates = list(next(iter(report["clean"]["points"].values())))
    for point in report["clean"]["points"]:
        lines = [[name, *(cell(f["points"][point].get(k)) for k in rates)] for name, f in sets.items()]
        for anchor in ANCHORS:
            if point in anchor.points:
                sensitivity, specificity = anchor.points[point]
                lines.append(
                    [f"test, {anchor.name}", f"{sensitivity:.3f}", f"{specificity:.3f}", *([""] * (len(rates) - 2))]
                )
        out += f"<h3>Operating point {point}</h3>" + _table(["films", *rates], lines)
    return out


def _confusions(report: dict[str, Any], test: dict[str, Any] | None) -> str:
    sets = {"report, clean": report["clean"], **({"test": test["test"]} if test else {})}
    rows = [
        [name, point, *(str(counts[k]) for k in ("tp", "fn", "tn", "fp"))]
        for name, figures in sets.items()
        for point, counts in figures["confusion"].items()
    ]
    return "<h2>Confusion</h2>" + _table(["films", "operating point", "tp", "fn", "tn", "fp"], rows)


def _hard(hard: dict[str, Any], report: dict[str, Any]) -> str:
    scores = list(next(iter(report["corruptions"].values())))
    rows = [
        [name.split("/")[-1], f"{hard['kermany_auroc'][name.split('/')[-1]]:.4f}", *(f"{v[k]:.4f}" for k in scores)]
        for name, v in report["corruptions"].items()
    ]
    nih = ", ".join(f"{k} {v:.4f} (n = {hard['nih_n'][k]})" for k, v in hard["nih_auroc"].items() if v is not None)
    return (
        f"<h2>Hard validation</h2><p>Selection figure {hard['selection']:.4f}; Kermany corrupted AUROC "
        f"{hard['kermany_corrupted_auroc']:.4f}; NIH AUROC {nih or 'not used'} (adults: outside the intended population, "
        "used for choosing only).</p>"
        + _table(["corruption", "AUROC, both halves", *(f"{k}, report half" for k in scores)], rows)
    )


def _decision(fixed: dict[str, Any]) -> str:
    return f"<h2>Calibration, operating points, limits</h2><pre>{html.escape(json.dumps(fixed, indent=1)[:6000])}</pre>"


def _shortcuts(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    labels = sorted({label for counts in figures["folder_by_label"].values() for label in counts})
    table = _table(
        ["training films", *labels],
        [[f, *(str(counts.get(label, 0)) for label in labels)] for f, counts in figures["folder_by_label"].items()],
    )
    probes = _table(["probe", "AUROC"], [[k, f"{v:.4f}"] for k, v in figures["probes"].items()])
    aspect = _table(["aspect ratio", ""], [[k, f"{v:.4f}"] for k, v in figures["aspect"].items()])
    return "<h2>Shortcut probes</h2>" + table + probes + aspect


def _reduced(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    rows = [
        [
            p["original"],
            p["reduced"],
            f"{p['logit_original']:.4f}",
            f"{p['logit_reduced']:.4f}",
            f"{p['difference']:.4f}",
        ]
        for p in figures["pairs"]
    ]
    return "<h2>Original and reduced copies</h2>" + _table(
        ["original", "reduced", "logit", "logit", "difference"], rows
    )
