"""The manifest of a run's bundle: every fact from the run's folder, its recipe and its films; none is typed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from app.bundle.manifest import (
    SCHEMA_VERSION,
    ConformalMeasured,
    DataSource,
    Estimate,
    Licence,
    Manifest,
    MeasuredPoint,
    NetworkSpec,
    OperatingPoint,
    Provenance,
)
from app.errors import ConfigurationError
from training.data.cache import Pixels, load_pixels
from training.data.films import Film
from training.data.fingerprint import data_sources
from training.data.sources import intended_use, licence
from training.data.splits import recipe_splits
from training.fitting.pretrain import usable_films
from training.judging.decide import Fixed
from training.judging.evaluate import checked_splits
from training.networks.network import TriageNetwork
from training.networks.onnx_export import explanation_kind, feature_shape
from training.places import Places
from training.publishing import evidence
from training.publishing.evidence import Figures, load_figures
from training.recipe import Recipe
from training.runs import Run, now

TOLERANCES = {"fp32": 1e-3}
MEASURED_ON = "report half of the validation, clean and corrupted"
PRETRAINING = "pre-training, labels not used"
WEIGHTS = "initial weights: "
NOT_STATED = "not stated by the recipe"


def bundle_manifest(run: Run, places: Places, fixed: Fixed, network: TriageNetwork, version: str) -> Manifest:
    """Of the bundle to be: without files, without a gate, and not yet promoted.

    Raises ConfigurationError where a step is missing, for films that changed since the fit, and for a source of which too little is
    known.
    """
    recipe, figures = run.recipe, load_figures(run)
    run.read_json("figures-report.json")  # the report half comes first
    trained = trained_pixels(run, places)
    size, channels = recipe.input.size, recipe.input.channels
    return Manifest.model_validate(
        {
            "schema_version": SCHEMA_VERSION,
            "name": recipe.name,
            "version": version,
            "task": recipe.data.task,
            "classes": recipe.data.classes,
            "input": recipe.input,
            "network": NetworkSpec(
                architecture=recipe.network.architecture,
                logits=len(recipe.data.outputs),
                features=feature_shape(network, size, channels),
                explanation=explanation_kind(network),
            ),
            "calibration": fixed.calibration,
            "calibration_chosen_by": fixed.calibration_chosen_by,
            "operating_points": [_measured(p, figures) for p in fixed.operating_points],
            "default_operating_point": fixed.default_operating_point,
            "review": fixed.review,
            "quality": fixed.quality,
            "intended_use": intended_use(recipe),
            "gate": None,
            "metrics": evidence.metrics(figures),
            "provenance": _provenance(run, places, trained),
            "licence": _licence([*trained.films, *pretraining_films(recipe, places)], recipe),
            "tolerances": TOLERANCES,
            "files": {},
        }
    )


def _measured(point: OperatingPoint, figures: Figures) -> OperatingPoint:
    """The point with what it did on the mix; a class whose rates cannot be computed there is left out."""
    described: dict[str, Any] = figures.described("mix") or {"n": 0, "points": {}}
    content = described["points"].get(point.name, {})
    if point.rule == "conformal":
        return point.model_copy(update={"conformal": _conformal(content.get("overall", {}), described["n"])})
    found = {}
    for name in evidence.rated(figures.recipe):
        rates = content.get("classes", {}).get(name, {})
        if {"sensitivity", "specificity"} <= set(rates):
            found[name] = MeasuredPoint(
                sensitivity=Estimate.model_validate(rates["sensitivity"]),
                specificity=Estimate.model_validate(rates["specificity"]),
                data=MEASURED_ON,
                n=described["n"],
            )
    return point.model_copy(update={"measured": found})


def _conformal(overall: dict[str, Any], n: int) -> ConformalMeasured | None:
    if not {"coverage", "mean_set_size"} <= set(overall):
        return None
    coverage, size = (Estimate.model_validate(overall[name]) for name in ("coverage", "mean_set_size"))
    return ConformalMeasured(coverage=coverage, mean_set_size=size, data=MEASURED_ON, n=n)


def trained_pixels(run: Run, places: Places) -> Pixels:
    """The training films as they are now, which must be those that the run was fitted on: their digest goes into the provenance.

    Raises ConfigurationError: `stale_data` for other films, `data_changed` for films of other content (a run of earlier code, which
    kept no digest, passes).
    """
    pixels = load_pixels(places.data, checked_splits(run, places).train, run.recipe.input, places.cache)
    if run.read_json("environment.json").get("training_data_digest", pixels.digest) != pixels.digest:
        raise ConfigurationError(
            "data_changed",
            f"the training films of {run.path.name} are not those that it was fitted on (one or more were changed): put them back, "
            "or delete the run's folder and fit anew",
        )
    return pixels


def _provenance(run: Run, places: Places, trained: Pixels) -> Provenance:
    environment, fitted, recipe = run.read_json("environment.json"), run.read_json("fitted.json"), run.recipe
    return Provenance(
        git_commit=environment["git_commit"],
        recipe=recipe.name,
        recipe_digest=recipe.digest,
        seed=recipe.seed,
        data=(*data_sources(trained, recipe.data.sources), *_pretraining(recipe, places), *_weights(recipe, places)),
        libraries=environment["libraries"],
        hardware=environment["hardware"],
        duration_s=fitted["seconds"],
        created_at=now(),
        parent_digest=None,
    )


def _pretraining(recipe: Recipe, places: Places) -> list[DataSource]:
    """Films that the body saw before the fit, under a name that says so."""
    part, films = recipe.pretraining, pretraining_films(recipe, places)
    if part is None or not films:
        return []
    pixels = load_pixels(places.data, films, recipe.input, places.cache)
    return data_sources(pixels, part.sources or recipe.data.sources, PRETRAINING)


def pretraining_films(recipe: Recipe, places: Places) -> tuple[Film, ...]:
    """What the body was pre-trained on; none without pre-training."""
    if recipe.pretraining is None:
        return ()
    films, _ = usable_films(recipe, recipe_splits(recipe, places).train, places)
    return films


def _licence(films: Sequence[Film], recipe: Recipe) -> Licence:
    """Of the films, and of a weights file that the network started from: one not known to allow commercial use does not."""
    found, part = licence(films, recipe), recipe.network.weights
    if part is None:
        return found
    started = f"{WEIGHTS}{PurePath(part.file).name} (licence {part.licence or NOT_STATED})"
    changed: dict[str, Any] = {"weights": f"{found.weights}; {started}"}
    if not part.commercial_use:
        changed |= {"commercial_use": False, "notes": f"No commercial use, because of {started}. {found.notes}"}
    return found.model_copy(update=changed)


def _weights(recipe: Recipe, places: Places) -> list[DataSource]:
    """A weights file that the network started from: its films and their licence are known to whoever made it."""
    part = recipe.network.weights
    if part is None:
        return []
    path = places.data / part.file  # an absolute path stays as it is
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return [
        DataSource(
            name=f"{WEIGHTS}{path.name}",
            images=0,
            digest=digest,
            licence=part.licence or NOT_STATED,
            attribution=f"a file of {path.stat().st_size} bytes; its training films are not known here",
        )
    ]
