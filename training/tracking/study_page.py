"""What came out of a study: index.html (trials, history, what mattered), trials.json, and the best recipe as best.toml."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from app.errors import ConfigurationError
from training.recipe import Recipe
from training.runs import write_atomically
from training.tracking.spec import Choice, SearchPart
from training.tracking.toml import recipe_toml

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

mpl.use("Agg")

_STYLE = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin:.5em 0}img{max-width:100%}"
    "td,th{border:1px solid #ccc;padding:2px 8px;text-align:left}tr.best{background:#eef6ee}"
)
LEAST = 4  # completed trials before importances are worth a look


def write_outcome(study: Study, recipe: Recipe, part: SearchPart, folder: Path) -> Path:
    """Write the study's files into its folder. Returns best.toml. Raises ConfigurationError without a completed trial."""
    done = completed(study)
    if not done:
        raise ConfigurationError("no_trial", f"no trial of {study.study_name} was completed; see why in its store")
    best = max(done, key=lambda trial: (_value(trial), -trial.number))
    chosen = recipe.changed(best.params)
    remarks = [
        f"Best of {len(done)} completed trials of study {study.study_name}: trial {best.number}, selection {_value(best):.4f}.",
        f"Chosen on the hard validation. Its run: {folder.name}/runs/{chosen.run_name}",
    ]
    path = folder / "best.toml"
    write_atomically(path, recipe_toml(chosen, remarks).encode())
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False)]
    content = {"study": study.study_name, "recipe": recipe.run_name, "best": best.number, "trials": rows}
    content["importances"] = importances(study, recipe.seed)
    write_atomically(folder / "trials.json", (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    write_atomically(folder / "index.html", _page(study, part, content, done).encode())
    return path


def completed(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def importances(study: Study, seed: int) -> dict[str, float]:
    """Share of the variance of the selection figure that each value explains (fANOVA, Hutter et al. 2014); empty below LEAST trials or
    where all figures are equal."""
    values = [_value(trial) for trial in completed(study)]
    if len(values) < LEAST or len(set(values)) == 1:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # noqa: PLC0415  only here

    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: float(value) for name, value in found.items()}


def _value(trial: FrozenTrial) -> float:
    return float(trial.values[0]) if trial.values else float("nan")


def _row(trial: FrozenTrial) -> dict[str, Any]:
    attributes = {name: trial.user_attrs.get(name) for name in ("run", "seconds", "process", "failure")}
    selection = _value(trial) if trial.state.name == "COMPLETE" else None
    epochs = {str(epoch): value for epoch, value in trial.intermediate_values.items()}
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "selection": selection,
        "values": dict(trial.params),
        "epochs": epochs,
        **attributes,
    }


def _page(study: Study, part: SearchPart, content: dict[str, Any], done: Sequence[FrozenTrial]) -> str:
    names = list(part.space)
    header = ["trial", "state", "selection", *names, "run", "seconds", "process", "failure"]
    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header) + "</tr>"]
    order = sorted(content["trials"], key=lambda r: (r["selection"] is None, -(r["selection"] or 0.0), r["number"]))
    for row in order:
        selection = "-" if row["selection"] is None else f"{row['selection']:.4f}"
        cells = [row["number"], row["state"], selection, *(row["values"].get(name, "-") for name in names)]
        cells += ["" if row[name] is None else row[name] for name in ("run", "seconds", "process", "failure")]
        mark = " class=best" if row["number"] == content["best"] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(_text(cell))}</td>" for cell in cells) + "</tr>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(study.study_name)}</title>'
        f"<style>{_STYLE}</style><h1>Study {html.escape(study.study_name)}</h1>"
        "<p>Selection figure of the hard validation; the test split plays no part. The best of many trials is also the luckiest: "
        "its run's report says what to expect.</p>"
        f"<table>{''.join(lines)}</table><h2>History</h2>{_history(done)}"
        f"<h2>What mattered</h2>{_importance_plot(content['importances'])}"
        f"<h2>Values</h2>{_slices(done, part)}</html>\n"
    )


def _text(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _history(done: Sequence[FrozenTrial]) -> str:
    figure = Figure(figsize=(8, 3.5))
    axes = figure.subplots()
    order = sorted(done, key=lambda trial: trial.number)
    numbers, values = [t.number for t in order], [_value(t) for t in order]
    axes.plot(numbers, values, "o", label="trial")
    axes.plot(numbers, np.maximum.accumulate(values), drawstyle="steps-post", label="best so far")
    axes.set(xlabel="trial", ylabel="selection figure")
    axes.legend(fontsize=8)
    return _inline(figure, "selection figure by trial")


def _importance_plot(found: dict[str, float]) -> str:
    if not found:
        return f"<p>Fewer than {LEAST} completed trials, or all with the same figure.</p>"
    figure = Figure(figsize=(8, 0.5 + 0.4 * len(found)))
    axes = figure.subplots()
    names = list(reversed(found))
    axes.barh(names, [found[name] for name in names])
    axes.set(xlabel="share of the variance explained (fANOVA)")
    return _inline(figure, "importance of each value")


def _slices(done: Sequence[FrozenTrial], part: SearchPart) -> str:
    """The selection figure against each value."""
    figure = Figure(figsize=(4 * len(part.space), 3.2))
    for axes, (name, drawn) in zip(np.atleast_1d(figure.subplots(1, len(part.space))), part.space.items(), strict=True):
        found = [trial.params[name] for trial in done]
        axes.plot([str(v) for v in found] if isinstance(drawn, Choice) else found, [_value(t) for t in done], "o")
        if drawn.kind == "float" and drawn.log:
            axes.set_xscale("log")
        axes.set_xlabel(name, fontsize=8)
    return _inline(figure, "selection figure by value")


def _inline(figure: Figure, text: str) -> str:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=90, bbox_inches="tight")
    return f'<img alt="{text}" src="data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}">'
