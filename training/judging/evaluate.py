"""Judging a run, in three steps that must be taken in order.

1. `hard`: the figure that chooses between runs; then calibration and operating points are fixed from it (decision.json).
2. `report`: what these do on the half of the validation that fitted nothing, clean and corrupted.
3. `test`: the official test split, opened here and nowhere else. Every look adds a line to the ledger.

Each step writes figures-<step>.json and logits-<step>.npz into the run's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Estimate
from app.errors import ConfigurationError
from training.fitting.fit import recipe_splits
from training.judging import ledger
from training.judging.decide import Fixed, Halves, fix, mix
from training.judging.figures import Judged, auroc, confusion, estimates, point_figures, score_figures
from training.judging.judge import CLEAN, Scored, nih_clean, nih_films, plain_pixels, score, score_corrupted
from training.places import Places
from training.runs import Run, git_commit, now


def evaluate_hard(run: Run, places: Places) -> dict[str, Any]:
    """The hard validation: the selection figure and what it is made of, then decision.json. Returns the figures."""
    recipe, network = run.recipe, run.network()
    splits = recipe_splits(recipe, places)
    halves: dict[str, list[Scored]] = {}
    for half, films in (("fit", splits.fit), ("report", splits.report)):
        pixels = plain_pixels(films, recipe, places)
        clean = score(CLEAN, network, pixels, recipe)
        halves[half] = [clean, *score_corrupted(network, pixels, recipe, half)]
    outside = _outside(run, places)
    _save_logits(run, "hard", {f"{h}/{s.name}": s for h, sets in halves.items() for s in sets} | outside)
    figures = _selection(halves, outside)
    figures["weights_digest"] = run.weights_digest()
    train = plain_pixels(splits.train, recipe, places)
    fixed = fix(recipe, Halves(**halves), train.statistics)
    run.write_json("decision.json", fixed.model_dump(mode="json"))
    run.write_json("figures-hard.json", figures)
    return figures


def evaluate_report(run: Run, places: Places) -> dict[str, Any]:
    """Figures of the report-half, clean, corrupted and per folder, from the logits of the hard validation."""
    del places  # nothing new is opened
    fixed = fixed_decision(run)
    sets = {name: s for name, s in load_logits(run, "hard").items() if name.startswith("report/")}
    clean = sets[f"report/{CLEAN}"]
    figures = {
        "clean": describe(run, fixed, clean),
        "mix": describe(run, fixed, mix(list(sets.values()))),
        "corruptions": {name.split("/")[1]: score_figures(s.judged(fixed.calibration)) for name, s in sets.items()},
        "folders": _by_folder(run, fixed, clean),
    }
    run.write_json("figures-report.json", figures)
    return figures


def evaluate_test(run: Run, places: Places) -> dict[str, Any]:
    """The official test split, everything else being fixed; adds a line to the ledger."""
    fixed = fixed_decision(run)
    run.read_json("figures-report.json")  # the report half comes first
    digest = run.weights_digest()
    if run.read_json("figures-hard.json")["weights_digest"] != digest:
        raise ConfigurationError("stale_step", "the weights changed after the hard validation; run it again")
    films = recipe_splits(run.recipe, places).test
    scored = score("test", run.network(), plain_pixels(films, run.recipe, places), run.recipe)
    _save_logits(run, "test", {"test": scored})
    whole = describe(run, fixed, scored)
    points = tuple(p.name for p in fixed.operating_points)
    row = {"date": now(), "recipe": run.recipe.name, "recipe_digest": run.recipe.digest, "weights_digest": digest}
    row |= {"git_commit": git_commit(), "n": str(len(films))}
    row |= ledger.cells("", _parsed(whole["scores"]), ledger.SCORES)
    for name in points:
        row |= ledger.cells(f"{name}_", _parsed(whole["points"][name]), ledger.RATES)
    looks = ledger.append(places.ledger, row, points)
    figures = {"test": whole, "folders": _by_folder(run, fixed, scored), "ledger_row": row, "ledger_rows": looks}
    run.write_json("figures-test.json", figures)
    return figures


def fixed_decision(run: Run) -> Fixed:
    """Calibration and operating points of a run. Raises ConfigurationError before the hard validation."""
    return Fixed.model_validate(run.read_json("decision.json"))


def describe(run: Run, fixed: Fixed, films: Scored) -> dict[str, Any]:
    """Every figure of one set with its interval: scores before and after calibration, operating points, confusion."""
    part = run.recipe.decision
    judged = films.judged(fixed.calibration)
    points = {p.name: fixed.threshold(p.name) for p in fixed.operating_points}
    raw = Judged(judged.labels, judged.margins, 1 / (1 + np.exp(-films.logits)), judged.patients)
    return {
        "n": len(judged),
        "patients": len(np.unique(films.patients)),
        "positives": int(films.labels.sum()),
        "scores": _plain(estimates(judged, score_figures, bootstraps=part.bootstraps, seed=run.recipe.seed)),
        "uncalibrated": score_figures(raw),
        "points": {
            name: _plain(estimates(judged, point_figures(t), bootstraps=part.bootstraps, seed=run.recipe.seed))
            for name, t in points.items()
        },
        "confusion": {name: confusion(judged.labels, judged.margins, t) for name, t in points.items()},
    }


def load_logits(run: Run, step: str) -> dict[str, Scored]:
    """The sets that a step scored, by name."""
    path = run.path / f"logits-{step}.npz"
    if not path.is_file():
        raise ConfigurationError(
            "step_missing", f"{path.name} is not in {run.path.name}: run `evaluate --split {step}`"
        )
    with np.load(path, allow_pickle=False) as stored:
        names = sorted({key.rsplit(":", 1)[0] for key in stored})
        fields = ("labels", "logits", "patients", "folders")
        return {n: Scored(n.rsplit("/", 1)[-1], *(stored[f"{n}:{f}"] for f in fields)) for n in names}


def _save_logits(run: Run, step: str, sets: dict[str, Scored]) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for name, scored in sets.items():
        for field in ("labels", "logits", "patients", "folders"):
            arrays[f"{name}:{field}"] = getattr(scored, field)
    np.savez_compressed(run.path / f"logits-{step}.npz", allow_pickle=False, **arrays)


def _outside(run: Run, places: Places) -> dict[str, Scored]:
    """The NIH films, all of them and those whose label nobody contradicts."""
    films = nih_films(run.recipe, places)
    if not films:
        return {}
    pixels = plain_pixels(films, run.recipe, places)
    every = score("nih", run.network(), pixels, run.recipe)
    children = np.array([film.age_group == "paediatric" for film in films])
    chosen = {"nih/all": np.ones(len(films), bool), "nih/clean": nih_clean(films, run.recipe, places)}
    chosen["nih/children"] = children
    return {
        name: Scored(name, every.labels[keep], every.logits[keep], every.patients[keep], every.folders[keep])
        for name, keep in chosen.items()
    }


def _selection(halves: dict[str, list[Scored]], outside: dict[str, Scored]) -> dict[str, Any]:
    """`mean_auroc`: (mean AUROC over corruptions and severities, both halves in one + AUROC of clean-label NIH films) / 2.

    Without an NIH folder the first term alone.
    """
    joined = [mix(pair) for pair in zip(halves["fit"], halves["report"], strict=True)]
    names = [s.name for s in halves["fit"]]
    table = {name: auroc(s.labels, s.logits) for name, s in zip(names, joined, strict=True)}
    corrupted = float(np.mean([value for name, value in table.items() if name != CLEAN]))
    nih = {name: auroc(s.labels, s.logits) for name, s in outside.items()}
    terms = [corrupted, *([nih["nih/clean"]] if nih else [])]
    return {
        "selection": float(np.mean(terms)),
        "kermany_corrupted_auroc": corrupted,
        "kermany_n": len(joined[0].labels),
        "nih_auroc": {name: _finite(value) for name, value in nih.items()},
        "nih_n": {name: len(s.labels) for name, s in outside.items()},
        "kermany_auroc": table,
        "halves_auroc": {h: {s.name: auroc(s.labels, s.logits) for s in sets} for h, sets in halves.items()},
    }


def _by_folder(run: Run, fixed: Fixed, films: Scored) -> dict[str, Any]:
    found = {}
    for folder in sorted(set(films.folders.tolist())):
        keep = films.folders == folder
        part = Scored(folder, films.labels[keep], films.logits[keep], films.patients[keep], films.folders[keep])
        found[folder] = describe(run, fixed, part)
    return found


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _plain(figures: dict[str, Estimate]) -> dict[str, Any]:
    return {name: e.model_dump(mode="json") for name, e in figures.items()}


def _parsed(figures: dict[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate.model_validate(value) for name, value in figures.items()}


STEPS = {"hard": evaluate_hard, "report": evaluate_report, "test": evaluate_test}


def evaluate(run: Run, places: Places, split: str) -> dict[str, Any]:
    """One step by name. Raises ConfigurationError where the steps before it are missing."""
    return STEPS[split](run, places)


def summary(figures: dict[str, Any], split: str) -> Sequence[str]:
    """A few lines for the terminal."""
    if split == "hard":
        nih = ", ".join(f"{k} {v:.4f}" for k, v in figures["nih_auroc"].items() if v is not None)
        chosen = (
            f"selection {figures['selection']:.4f} = mean of Kermany corrupted AUROC "
            f"{figures['kermany_corrupted_auroc']:.4f} and NIH AUROC ({nih or 'none'})"
        )
        return [chosen, ", ".join(f"{name} {value:.4f}" for name, value in figures["kermany_auroc"].items())]
    body = figures["test"] if split == "test" else figures["clean"]
    lines = [", ".join(f"{k} {_interval(v)}" for k, v in body["scores"].items())]
    lines += [
        f"{name}: " + ", ".join(f"{k} {_interval(v)}" for k, v in point.items())
        for name, point in body["points"].items()
    ]
    if split == "test":
        lines.append(f"ledger: {figures['ledger_rows']} rows")
    return lines


def _interval(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci"] or (float("nan"), float("nan"))
    return f"{estimate['value']:.4f} [{low:.4f}, {high:.4f}]"
