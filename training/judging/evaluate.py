"""Judging a run, in steps that must be taken in order.

1. `hard`: the figure that chooses between runs; then calibration and operating points are fixed from it (decision.json).
2. `report`: what these do on the half of the validation that fitted nothing, clean and corrupted.
3. `external`: what they do on the recipe's sets from elsewhere.
4. `test`: the test set, opened here and nowhere else. Every look adds a line to a ledger. It needs `hard` and `report`.

Each step writes figures-<step>.json, and logits-<step>.npz for what it was computed from: logits-hard.npz holds `<half>/<set>`, whose
`report/` part is what the second step describes; logits-external.npz is written by the first step, logits-test.npz by the last.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Estimate
from app.errors import ConfigurationError
from training.data.cache import training_pixels
from training.data.splits import Splits, recipe_splits
from training.judging import ledger
from training.judging.calibrate import NONE
from training.judging.decide import Fixed, Halves, fix
from training.judging.describe import describe
from training.judging.figures import macro
from training.judging.judge import CLEAN, judging_reader, plain_pixels, score, score_corrupted, score_external
from training.judging.scored import Scored, mix
from training.places import Places
from training.recipe import Recipe
from training.runs import Run, git_commit, now

FIELDS = ("targets", "logits", "patients", "sources", "paths")
KERMANY = frozenset({"kermany_hires", "kermany_224"})


def evaluate_hard(run: Run, places: Places) -> dict[str, Any]:
    """The hard validation: the selection figure and what it is made of, then decision.json. Returns the figures."""
    recipe, read = run.recipe, judging_reader(run)
    splits = checked_splits(run, places)
    halves: dict[str, list[Scored]] = {}
    for half, films in (("fit", splits.fit), ("report", splits.report)):
        pixels = plain_pixels(films, recipe, places)
        clean = score(CLEAN, read, pixels, recipe)
        halves[half] = [clean, *score_corrupted(read, pixels, recipe, half)]
    external = score_external(read, recipe, places)
    _save_logits(run, "hard", {f"{half}/{s.name}": s for half, sets in halves.items() for s in sets})
    _save_logits(run, "external", external)
    figures = selection(recipe, halves, external) | {"weights_digest": run.weights_digest()}
    trained = training_pixels(recipe, splits.train, places)
    fixed = fix(recipe, Halves(**halves), trained.statistics)
    run.write_json("decision.json", fixed.model_dump(mode="json"))
    run.write_json("figures-hard.json", figures)
    return figures


def evaluate_report(run: Run, places: Places) -> dict[str, Any]:
    """Figures of the report-half, clean, corrupted and per source, from the logits of the hard validation."""
    del places  # nothing new is opened
    fixed = fixed_decision(run)
    sets = load_logits(run, "report")
    figures = {
        **_judged(run),
        "clean": describe(run.recipe, fixed, sets[CLEAN]),
        "mix": describe(run.recipe, fixed, mix(list(sets.values()))),
        "corruptions": {name: _macro_scores(fixed, films) for name, films in sets.items()},
        "sources": _by_source(run, fixed, sets[CLEAN]),
    }
    run.write_json("figures-report.json", figures)
    return figures


def evaluate_external(run: Run, places: Places) -> dict[str, Any]:
    """Figures of each set from elsewhere, from the logits of the hard validation."""
    del places
    fixed = fixed_decision(run)
    sets = load_logits(run, "external")
    figures = {name: describe(run.recipe, fixed, films) for name, films in sets.items()} | _judged(run)
    run.write_json("figures-external.json", figures)
    return figures


def evaluate_test(run: Run, places: Places) -> dict[str, Any]:
    """The test set, everything else being fixed; adds a line to the ledger before anything of it is written elsewhere.

    Raises ConfigurationError before a film is opened where that line could not be written.
    """
    fixed = fixed_decision(run)
    judged, digest = _judged(run), run.weights_digest()
    if judged["weights_digest"] != digest:
        raise ConfigurationError("stale_step", "the weights changed after the hard validation; run it again")
    if run.read_json("figures-report.json").get("decision_digest", judged["decision_digest"]) != decision_digest(run):
        raise ConfigurationError("stale_step", "thresholds were derived anew after the report step; take it again")
    films = checked_splits(run, places).test
    if not films:
        raise ConfigurationError("no_films", f"{run.recipe.name} has no test films; nothing is opened")
    if standing(run.recipe, {film.folder for film in films}):
        ledger.ready(places.ledger, ledger.POINTS)
    else:
        ledger.ready(ledger.looks_beside(places.ledger), None)
    scored = score("test", judging_reader(run), plain_pixels(films, run.recipe, places), run.recipe)
    whole = describe(run.recipe, fixed, scored)
    figures = {"test": whole} | _record(run, places, scored, whole, digest)
    _save_logits(run, "test", {"test": scored})
    figures |= {"sources": _by_source(run, fixed, scored), **judged}
    run.write_json("figures-test.json", figures)
    return figures


def fixed_decision(run: Run) -> Fixed:
    """Calibration and operating points of a run. Raises ConfigurationError before the hard validation."""
    return Fixed.model_validate(run.read_json("decision.json"))


def decision_digest(run: Run) -> str:
    """SHA-256 of what decides, in canonical JSON: figures of other calibrators or thresholds are not the run's. Raises
    ConfigurationError before the hard validation."""
    content = json.dumps(run.read_json("decision.json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _judged(run: Run) -> dict[str, str]:
    """What a step's figures belong to."""
    weights = str(run.read_json("figures-hard.json")["weights_digest"])
    return {"weights_digest": weights, "decision_digest": decision_digest(run)}


def checked_splits(run: Run, places: Places) -> Splits:
    """The recipe's splits, which must be those of the fit: raises ConfigurationError where the films have changed since."""
    splits = recipe_splits(run.recipe, places)
    recorded = run.optional_json("splits.json")
    if recorded is not None and recorded["digest"] != splits.digest:
        raise ConfigurationError(
            "stale_data", f"the films have changed since {run.path.name} was fitted; fit it again in a new folder"
        )
    return splits


def load_logits(run: Run, step: str) -> dict[str, Scored]:
    """The sets that a step scored, by name: `hard` (`<half>/<set>`), `report` (`<set>`: clean first), `external` or `test`."""
    if step == "report":
        return {n.removeprefix("report/"): s for n, s in load_logits(run, "hard").items() if n.startswith("report/")}
    path = run.path / f"logits-{step}.npz"
    if not path.is_file():
        raise ConfigurationError("step_missing", f"{path.name} is not in {run.path.name}: run the earlier step first")
    task, outputs = run.recipe.data.task, run.recipe.data.outputs
    with np.load(path, allow_pickle=False) as stored:
        names = list(dict.fromkeys(key.rsplit(":", 1)[0] for key in stored))
        return {n: Scored(n.rsplit("/", 1)[-1], task, outputs, *(stored[f"{n}:{f}"] for f in FIELDS)) for n in names}


def _save_logits(run: Run, step: str, sets: Mapping[str, Scored]) -> None:
    arrays: dict[str, NDArray[Any]] = {f"{n}:{f}": getattr(films, f) for n, films in sets.items() for f in FIELDS}
    np.savez_compressed(run.path / f"logits-{step}.npz", allow_pickle=False, **arrays)


def selection(recipe: Recipe, halves: Mapping[str, Sequence[Scored]], external: Mapping[str, Scored]) -> dict[str, Any]:
    """The figure that chooses between runs, and what it is made of. AUROC of raw logits' margins; several classes: their mean.

    selection = mean AUROC over corruptions and severities, both halves of the validation in one, averaged with the mean AUROC of the
    external sets that select; without such sets the first term alone (without severities the clean films' AUROC stands for it).
    Raises ConfigurationError where an external set selects but holds one class only.
    """
    joined = [mix(pair) for pair in zip(halves["fit"], halves["report"], strict=True)]
    table = {s.name: macro(films, NONE) for s, films in zip(halves["fit"], joined, strict=True)}
    corrupted = [value for name, value in table.items() if name != CLEAN]
    terms = [float(np.mean(corrupted)) if corrupted else table[CLEAN]]
    outside = {name: macro(films, NONE) for name, films in external.items()}
    selecting = [part.name for part in recipe.evaluation.external if part.selects]
    useless = [name for name in selecting if not np.isfinite(outside[name])]
    if useless:
        raise ConfigurationError("one_class", f"external sets {useless} select between runs, but hold one class only")
    if selecting:
        terms.append(float(np.mean([outside[name] for name in selecting])))
    return {
        "selection": float(np.mean(terms)),
        "corrupted_auroc": terms[0],
        "external_selecting": selecting,
        "clean_auroc": table[CLEAN],
        "external_auroc": {name: value if np.isfinite(value) else None for name, value in outside.items()},
        "external_n": {name: len(films) for name, films in external.items()},
        "n": len(joined[0]),
        "auroc": table,
        "halves_auroc": {half: {s.name: macro(s, NONE) for s in sets} for half, sets in halves.items()},
    }


def _by_source(run: Run, fixed: Fixed, films: Scored) -> dict[str, Any]:
    """Each source by itself; the only one is the whole."""
    names = sorted(set(films.sources.tolist()))
    return {name: describe(run.recipe, fixed, films.take(films.sources == name, name)) for name in names}


def _macro_scores(fixed: Fixed, films: Scored) -> dict[str, float]:
    found = {name: macro(films, fixed.calibration, name) for name in ("auroc", "auprc", "brier", "nll", "ece")}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _record(run: Run, places: Places, scored: Scored, whole: dict[str, Any], digest: str) -> dict[str, Any]:
    """Write the look down; `ledger`, `ledger_row` and `ledger_rows` (lines now) of the figures."""
    recipe = run.recipe
    row: dict[str, Any] = {"date": now(), "recipe": recipe.name, "recipe_digest": recipe.digest}
    row |= {"weights_digest": digest, "git_commit": git_commit()}
    if standing(recipe, set(scored.sources.tolist())):
        [positive] = scored.outputs
        row |= {"n": str(len(scored))}
        row |= ledger.cells("", _parsed(whole["classes"][positive]["scores"]), ledger.SCORES)
        for name in ledger.POINTS:
            row |= ledger.cells(f"{name}_", _parsed(whole["points"][name]["classes"][positive]), ledger.RATES)
        lines = ledger.append(places.ledger, row, ledger.POINTS)
        return {"ledger": places.ledger.name, "ledger_row": row, "ledger_rows": lines}
    row |= {"seed": recipe.seed, "task": recipe.data.task, "classes": list(recipe.data.classes)}
    paths = "\n".join(sorted(scored.paths.tolist()))
    row["test"] = {
        "n": len(scored),
        "patients": whole["patients"],
        "digest": hashlib.sha256(paths.encode()).hexdigest(),
        "sources": dict(sorted(Counter(scored.sources.tolist()).items())),
    }
    row["macro"] = whole["macro"]
    row["scores"] = {name: body["scores"] for name, body in whole["classes"].items()}
    row["points"] = {name: {k: body[k] for k in ("overall", "classes")} for name, body in whole["points"].items()}
    path = ledger.looks_beside(places.ledger)
    lines = ledger.append_look(path, row)
    return {"ledger": path.name, "ledger_row": row, "ledger_rows": lines}


def standing(recipe: Recipe, sources: set[str]) -> bool:
    """Whether a look at test films of these sources fits the CSV ledger: binary pneumonia, its three points, the whole official Kermany
    test split."""
    return (
        recipe.data.task == "binary"
        and recipe.data.classes == ("normal", "pneumonia")
        and recipe.data.test == "upstream"
        and sources == KERMANY
        and tuple(point.name for point in recipe.decision.points) == ledger.POINTS
    )


def _parsed(figures: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate.model_validate(value) for name, value in figures.items()}


STEPS: dict[str, Callable[[Run, Places], dict[str, Any]]] = {
    "hard": evaluate_hard,
    "report": evaluate_report,
    "external": evaluate_external,
    "test": evaluate_test,
}


def evaluate(run: Run, places: Places, step: str) -> dict[str, Any]:
    """One step by name. Raises ConfigurationError where the steps before it are missing."""
    if step not in STEPS:
        raise ConfigurationError("unknown_step", f"no step {step!r}; there are: {', '.join(STEPS)}")
    return STEPS[step](run, places)


def summary(figures: dict[str, Any], step: str) -> Sequence[str]:
    """A few lines for the terminal."""
    if step == "hard":
        outside = {name: f"{name} {v:.4f}" for name, v in figures["external_auroc"].items() if v is not None}
        chosen = f"selection {figures['selection']:.4f}: corrupted AUROC {figures['corrupted_auroc']:.4f}"
        if names := figures["external_selecting"]:
            chosen += f", averaged with the mean of the external sets that select ({', '.join(outside.pop(n) for n in names)})"
        lines = [
            chosen,
            ", ".join(f"{name} {value:.4f}" for name, value in figures["auroc"].items()),
        ]
        return [*lines, f"external, not selecting: {', '.join(outside.values())}"] if outside else lines
    if step == "external":
        sets = {name: body for name, body in figures.items() if isinstance(body, dict)}
        return [line for name, body in sets.items() for line in (f"{name} (n = {body['n']})", *_body(body))]
    lines = _body(figures["test" if step == "test" else "clean"])
    return [*lines, f"{figures['ledger']}: {figures['ledger_rows']} lines"] if step == "test" else lines


def _body(body: dict[str, Any]) -> list[str]:
    lines = [", ".join(f"{name} {_interval(value)}" for name, value in body["macro"].items())]
    for name, point in body["points"].items():
        lines.append(f"{name}: " + ", ".join(f"{k} {_interval(v)}" for k, v in point["overall"].items()))
        shown = ("sensitivity", "specificity", "coverage")
        lines += [
            f"  {label}: " + ", ".join(f"{k} {_interval(rates[k])}" for k in shown if k in rates)
            for label, rates in point["classes"].items()
        ]
    return lines


def _interval(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci"] or (float("nan"), float("nan"))
    return f"{estimate['value']:.4f} [{low:.4f}, {high:.4f}]"
