"""Classical baselines on a recipe's films: fitted on its training split, judged as its network is, and lines of the leaderboard.

A baseline sees the same cached pixels in the same split, goes through the same hard validation, calibration, operating points and report,
and leaves the same files in a folder of its own, runs/<recipe>-<digest8>-<model>/: recipe.json, splits.json, environment.json,
fitted.json, decision.json, logits-{hard,external}.npz, figures-{hard,report,external}.json, and classical.json, which says that this
is no network. There is no weights.pt, so nothing can be exported from it, and of the test split nothing is looked at but the hashes that
find the same picture on both sides.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from training.classical.features import Features, Gray, extractors
from training.classical.models import Classifier, fit_classifier
from training.classical.spec import ClassicalPart, Model
from training.data.cache import Pixels, training_pixels
from training.data.collect import collect
from training.data.films import Film
from training.data.leaks import check_duplicates
from training.data.splits import Splits, recipe_splits
from training.data.targets import targets
from training.judging.corruptions import corrupt_all
from training.judging.decide import Halves, fix
from training.judging.evaluate import FIELDS, evaluate_external, evaluate_report, selection
from training.judging.judge import CLEAN, SELECTION_KINDS, plain_pixels, scored_films
from training.judging.scored import Floats, Scored
from training.places import Places
from training.recipe import Recipe
from training.runs import Run, environment

_CHUNK = 256  # films whose features are made at once


@dataclass
class Answers:
    """What one model says of every set of the hard validation."""

    halves: dict[str, list[Scored]] = field(default_factory=lambda: {"fit": [], "report": []})
    external: dict[str, Scored] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """A model, and the seconds that its features and its fit took."""

    classifier: Classifier
    seconds: float


def run_classical(recipe: Recipe, places: Places, console: Console, part: ClassicalPart | None = None) -> list[str]:
    """Fit and judge every model of the part that has no finished folder yet. Returns the names of all their folders.

    Raises ConfigurationError: `leak` where films of two parts show the same picture, and what reading the films raises.
    """
    part = part or ClassicalPart()
    runs = {model: Run(places.runs / _folder(recipe, part, model), recipe) for model in part.models}
    missing = tuple(model for model, run in runs.items() if not (run.path / "figures-report.json").is_file())
    if missing:
        _fit_and_judge({model: runs[model] for model in missing}, part, places)
    else:
        console.print("the classical baselines are complete; nothing to do")
    return [run.path.name for run in runs.values()]


def _folder(recipe: Recipe, part: ClassicalPart, model: Model) -> str:
    """Named by what shapes the baseline: films, input, judging, features, model; not by the network or how it is trained."""
    content = recipe.model_dump(mode="json", include={"data", "input", "decision", "evaluation"})
    content |= {"seed": part.seed, "model": model} | ({"hog": part.features.model_dump()} if "hog" in model else {})
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return f"{recipe.name}-{digest[:8]}-{model}"


def _fit_and_judge(runs: Mapping[Model, Run], part: ClassicalPart, places: Places) -> None:
    recipe = next(iter(runs.values())).recipe
    splits = recipe_splits(recipe, places)
    check_duplicates(splits, places, recipe.data.duplicate_bits)
    trained = training_pixels(recipe, splits.train, places)
    fitted = _fit_all(tuple(runs), part, trained, recipe)
    answers: dict[Model, Answers] = {model: Answers() for model in runs}
    for place, name, films, gray in _sets(recipe, splits, places):
        features = _features(gray, runs, part)
        for model, answer in answers.items():
            logits = fitted[model].classifier.logits(features[_kind(model)[0]])
            scored = scored_films(name, films, logits, recipe)
            if place == "external":
                answer.external[name] = scored
            else:
                answer.halves[place].append(scored)
    for model, run in track(runs.items(), description="calibration and figures", transient=True):
        _write_run(run, model, part, splits=splits, fitted=fitted[model], trained=trained)
        _judge(run, answers[model], trained, places)


def _kind(model: Model) -> tuple[str, str]:
    """Features and classifier of a model's name."""
    features, _, classifier = model.partition("-")
    return features, classifier


def _fit_all(models: Sequence[Model], part: ClassicalPart, trained: Pixels, recipe: Recipe) -> dict[Model, Fitted]:
    truth = targets(trained.films, recipe.data)
    made: dict[str, tuple[Features, float]] = {}
    found = {}
    for model in track(models, description="classical models", transient=True):
        features, classifier = _kind(model)
        if features not in made:
            start = time.perf_counter()
            made[features] = (_features(trained.plain, [model], part)[features], time.perf_counter() - start)
        start = time.perf_counter()
        fit = fit_classifier(classifier, recipe.data.task, made[features][0], truth, part.seed)
        found[model] = Fitted(fit, made[features][1] + time.perf_counter() - start)
    return found


def _features(gray: Gray, models: Sequence[Model] | Mapping[Model, Run], part: ClassicalPart) -> dict[str, Features]:
    """The features that the models need of uint8 [N, S, S]."""
    kinds = sorted({_kind(model)[0] for model in models})
    by_kind = extractors(part.features)
    starts = range(0, len(gray), _CHUNK)
    return {kind: np.concatenate([by_kind[kind](np.asarray(gray[i : i + _CHUNK])) for i in starts]) for kind in kinds}


def _sets(recipe: Recipe, splits: Splits, places: Places) -> Iterator[tuple[str, str, tuple[Film, ...], Gray]]:
    """Where a set belongs (fit, report, external), its name, its films and uint8 [N, S, S]: those of `evaluate_hard`, in its order."""
    for half in ("fit", "report"):
        pixels = plain_pixels(getattr(splits, half), recipe, places)
        names = [film.path for film in pixels.films]
        yield half, CLEAN, pixels.films, pixels.plain
        steps = [(kind, level) for kind in SELECTION_KINDS for level in recipe.evaluation.severities]
        for kind, level in track(steps, description=f"hard validation, {half}", transient=True):
            yield half, f"{kind}-{level}", pixels.films, corrupt_all(pixels.plain, kind, level, names)
    for outside in recipe.evaluation.external:
        pixels = plain_pixels(collect(outside.sources, places.data, recipe.data), recipe, places)
        yield "external", outside.name, pixels.films, pixels.plain


def _write_run(run: Run, model: Model, part: ClassicalPart, *, splits: Splits, fitted: Fitted, trained: Pixels) -> None:
    """What is known before the judging."""
    run.path.mkdir(parents=True, exist_ok=True)
    features, classifier = _kind(model)
    films = len(trained.films)
    described = part.features.model_dump() if features == "hog" else {"size": 32}
    run.write_json(
        "classical.json",
        {"model": model, "features": {"kind": features, **described}, "classifier": classifier, "seed": part.seed},
    )
    run.write_json("recipe.json", run.recipe.model_dump(mode="json"))
    sizes = {name: len(found) for name, found in vars(splits).items()}
    run.write_json("splits.json", {"digest": splits.digest, "films": sizes})
    run.write_json("environment.json", {**environment(), "training_data_digest": trained.digest})
    seconds = round(fitted.seconds, 3)
    run.write_json("fitted.json", {"seconds": seconds, "images_per_s": round(films / max(seconds, 1e-3), 1)})


def _judge(run: Run, answers: Answers, trained: Pixels, places: Places) -> None:
    """The steps of `training.judging.evaluate`, from answers instead of a network."""
    hard = {f"{half}/{s.name}": s for half, sets in answers.halves.items() for s in sets}
    _save(run, "hard", hard)
    _save(run, "external", answers.external)
    fixed = fix(run.recipe, Halves(**answers.halves), trained.statistics)
    run.write_json("decision.json", fixed.model_dump(mode="json"))
    figures = selection(run.recipe, answers.halves, answers.external)
    run.write_json("figures-hard.json", figures | {"weights_digest": answers_digest(hard)})
    evaluate_external(run, places)
    evaluate_report(run, places)  # last: its file says that the folder is complete


def answers_digest(sets: Mapping[str, Scored]) -> str:
    """SHA-256 over all logits: what stands for the weights of a model that is not kept."""
    whole = hashlib.sha256()
    for name in sorted(sets):
        whole.update(name.encode())
        whole.update(np.ascontiguousarray(sets[name].logits, dtype=np.float64).tobytes())
    return whole.hexdigest()


def _save(run: Run, step: str, sets: Mapping[str, Scored]) -> None:
    """As `load_logits` reads it."""
    arrays: dict[str, Floats | NDArray[np.str_]] = {f"{n}:{f}": getattr(s, f) for n, s in sets.items() for f in FIELDS}
    np.savez_compressed(run.path / f"logits-{step}.npz", allow_pickle=False, **arrays)
