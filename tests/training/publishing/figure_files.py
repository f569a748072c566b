"""A run's folder with figures written by hand in the form that `training.judging` writes, so that one of them can be changed at a time.

`good_run` passes the default (binary) or a research-like policy (three classes); nothing in it is fitted.
"""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import torch

from tests.training.phantom_data import TINY, TINY_MULTICLASS, TINY_MULTILABEL
from training.recipe import Recipe, parse_recipe
from training.runs import Run

BASELINE = "linear classifier on 32 x 32 thumbnails"
_TEXTS = {"binary": TINY, "multiclass": TINY_MULTICLASS, "multilabel": TINY_MULTILABEL}


def recipe_of(task: str = "binary", **changes: Any) -> Recipe:
    return parse_recipe(tomllib.loads(_TEXTS[task]), task).changed(
        {k.replace("__", "."): v for k, v in changes.items()}
    )


def estimate(value: float, half: float = 0.01) -> dict[str, Any]:
    return {"value": value, "ci": [value - half, value + half]}


def described(recipe: Recipe, *, auroc: float = 0.97, n: int = 400) -> dict[str, Any]:
    """describe() of a good network: every class with the same figures."""
    scores = {"auroc": auroc, "auprc": 0.96, "brier": 0.05, "nll": 0.2, "ece": 0.03, "ece_equal_width": 0.03}
    each = {k: estimate(v) for k, v in scores.items()}
    rates = {
        k: estimate(v)
        for k, v in {"sensitivity": 0.93, "specificity": 0.92, "ppv": 0.9, "npv": 0.9, "f1": 0.91}.items()
    }
    overall = {k: estimate(v) for k, v in {"accuracy": 0.92, "balanced_accuracy": 0.925, "macro_f1": 0.91}.items()}
    classes = {c: {"n": n, "positives": n // 3, "scores": each, "uncalibrated": scores} for c in recipe.data.outputs}
    points: dict[str, Any] = {}
    for point in recipe.decision.points:
        if point.kind == "conformal":
            size = {"coverage": estimate(0.9), "mean_set_size": estimate(1.1)}
            points[point.name] = {
                "rule": "conformal",
                "classes": {c: {"coverage": estimate(0.9)} for c in recipe.data.classes},
            }
            points[point.name] |= {"overall": size, "sets": {c: {c: 10} for c in recipe.data.classes}}
            continue
        points[point.name] = {
            "rule": point.kind,
            "classes": dict.fromkeys(recipe.data.classes, rates),
            "overall": overall,
        }
        points[point.name]["confusion"] = {c: dict.fromkeys(recipe.data.classes, 7) for c in recipe.data.classes}
        if point.kind == "hierarchical":
            points[point.name]["price"] = {k: estimate(0.6) for k in ("recall", "argmax_recall", "difference")}
    found = {"n": n, "patients": n - 10, "classes": classes, "macro": each, "joint": {}, "points": points}
    found["calibration"] = {"brier": {k: estimate(0.05) for k in ("before", "after", "difference")}}
    return copy.deepcopy(found)


def figure_files(recipe: Recipe) -> dict[str, Any]:
    """Name -> content of every figures file, without the weights' digest."""
    whole, sources = described(recipe), {folder: described(recipe) for folder in recipe.data.folders}
    halves = {"clean": 0.97, "blur-1": 0.96, "blur-2": 0.95, "blur-3": 0.90}
    hard = {
        "selection": 0.8,
        "corrupted_auroc": 0.95,
        "clean_auroc": 0.97,
        "external_auroc": {"nih-clean": 0.6},
        "n": 800,
    }
    hard |= {"external_n": {"nih-clean": 50}, "auroc": halves, "halves_auroc": {"fit": halves, "report": halves}}
    gaps = {"auroc": estimate(-0.02, 0.03) | {"flagged": False}}
    row = {"n": 120, "patients": 110, "auroc": estimate(0.95), "accuracy": estimate(0.9), "classes": {}, "gaps": gaps}
    checks = {
        "slices": {"exposure": {"dark": row, "bright": row}},
        "slice_summary": {"comparisons": 2},
        "explanations": {
            "classes": {},
            "border_area": 0.36,
            "border_mass": estimate(0.2),
            "randomisation": estimate(0.1) | {"limit": 0.5, "passed": True},
            "warnings": [],
        },
    }
    shortcuts = {
        "verdict": [
            {"name": f"source, {c}", "wanted": "w", "measured": "0.5", "passed": True} for c in recipe.data.outputs
        ],
        "baseline": {"name": BASELINE, "clean": described(recipe, auroc=0.9), "test": described(recipe, auroc=0.85)},
    }
    corruptions = {name: {"auroc": value} for name, value in halves.items()}
    return {
        "figures-hard.json": hard,
        "figures-report.json": {
            "clean": whole,
            "mix": described(recipe),
            "sources": sources,
            "corruptions": corruptions,
        },
        "figures-test.json": {"test": described(recipe, auroc=0.98, n=624), "sources": sources},
        "figures-external.json": {"nih-clean": described(recipe, auroc=0.6, n=50)},
        "figures-checks.json": checks,
        "figures-shortcuts.json": shortcuts,
    }


def good_run(root: Path, recipe: Recipe | None = None) -> Run:
    """The folder of a run that passes, with weights that are no network's."""
    recipe = recipe or recipe_of()
    run = Run(root / recipe.run_name, recipe)
    run.path.mkdir(parents=True)
    run.write_json("recipe.json", recipe.model_dump(mode="json"))
    torch.save({"weight": torch.zeros(2)}, run.weights_file)
    for name, content in figure_files(recipe).items():
        own = (
            {} if name in {"figures-report.json", "figures-external.json"} else {"weights_digest": run.weights_digest()}
        )
        run.write_json(name, content | own)
    return run


def change(run: Run, name: str, *path: str | int, to: Any) -> None:
    """Put one value in place of another; `to` None takes the key away."""
    content = json.loads((run.path / name).read_text())
    node = content
    for key in path[:-1]:
        node = node[key]
    if to is None:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    run.write_json(name, content)
