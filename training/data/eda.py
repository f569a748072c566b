"""What is in a recipe's data, before anything is trained on it: one HTML page and the same numbers as JSON.

    runs/eda-<recipe>-<digest8>/eda.html, eda.json

Test films are counted and not opened: what is seen here shapes recipes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from app.preprocessing import resize_to_input
from training.data.cache import decoder_pool, load_film
from training.data.eda_page import page
from training.data.film_facts import FACTS, OVER_EXPOSED_ABOVE, UNDER_EXPOSED_BELOW, film_facts
from training.data.films import Film
from training.data.fingerprint import fingerprint, patients, shown
from training.data.leaks import HASH_SPEC, Duplicate, find_duplicates
from training.data.spec import DataPart
from training.data.splits import PARTS, Splits, recipe_splits
from training.data.suspects import Suspect, find_suspects, rate_of_category
from training.data.targets import targets
from training.places import Places
from training.recipe import Recipe

OPENED = ("train", "fit", "report")
CATEGORIES = ("source", "file format", "view", "sex", "age group")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Survey:
    """The opened films, measured.

    facts: name -> float64 [N], nan where there is none; formats: of each film's content; targets: float [N, K]; mean_films: class -> gray
    float64 [64, 64], the average of its films squashed to one size.
    """

    films: tuple[Film, ...]
    facts: Mapping[str, Floats]
    formats: tuple[str, ...]
    targets: Floats
    mean_films: Mapping[str, Floats]


def write_eda(recipe: Recipe, places: Places, console: Console) -> Path:
    """Measure the films of the recipe's training and validation parts and write the page (about 10 ms a film). Returns its path.

    Raises ConfigurationError for data that cannot be split or read.
    """
    splits = recipe_splits(recipe, places)
    survey = measure(splits, recipe, places)
    suspects = suspects_of(survey, recipe)
    duplicates = find_duplicates({name: getattr(splits, name) for name in OPENED}, places, recipe.data.duplicate_bits)
    content = report(survey, suspects, duplicates, splits, recipe)
    folder = places.runs / f"eda-{recipe.run_name}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eda.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    path = folder / "eda.html"
    path.write_text(page(content, survey.facts, survey.targets, survey.mean_films), encoding="utf-8")
    for suspect in [s for s in suspects if s.mark and s.scope == "all"][:5]:
        console.print(f"{suspect.mark}: {suspect.fact} tells {suspect.target} with AUROC {suspect.auroc:.3f}")
    return path


def measure(splits: Splits, recipe: Recipe, places: Places) -> Survey:
    """Open the films of train, fit and report."""
    films = [film for name in OPENED for film in getattr(splits, name)]
    wanted = np.asarray(targets(films, recipe.data), dtype=np.float64)
    rows, formats = [], []
    sums = {name: np.zeros((HASH_SPEC.size, HASH_SPEC.size)) for name in recipe.data.classes}
    with closing(decoder_pool()) as decoder:
        for film in track(films, description="measuring films", transient=True):
            radiograph, _ = load_film(places.data, film, decoder)
            content = (places.data / film.path).read_bytes()
            rows.append(film_facts(content, radiograph, max(film.width, film.height)))
            formats.append(radiograph.format)
            small = resize_to_input(radiograph, HASH_SPEC)[0]
            for name in shown(film):
                sums[name] += small
    counts = Counter(name for film in films for name in shown(film))
    means = {name: total / counts[name] for name, total in sums.items() if counts[name]}
    facts = {name: np.array([row[name] for row in rows]) for name in FACTS}
    return Survey(tuple(films), facts, tuple(formats), wanted, means)


def suspects_of(survey: Survey, recipe: Recipe) -> list[Suspect]:
    """Numbers, ages and categories against every class."""
    ages = np.array([np.nan if f.age_years is None else f.age_years for f in survey.films])
    arguments: dict[str, Any] = {
        "patients": [f.patient or f.path for f in survey.films],
        "sources": [f.folder for f in survey.films],
        "seed": recipe.data.split_seed,
    }
    found = find_suspects({**survey.facts, "age": ages}, survey.targets, recipe.data.outputs, **arguments)
    words = _categories(survey)
    for k, output in enumerate(recipe.data.outputs):
        target = survey.targets[:, k]
        rates = {f"{name} (which)": rate_of_category(values, target) for name, values in words.items()}
        found += [s for s in find_suspects(rates, target[:, None], (output,), **arguments) if s.scope == "all"]
    return sorted(found, key=lambda s: (-s.ci[0], -s.auroc, s.fact))


def _categories(survey: Survey) -> dict[str, list[str]]:
    columns = (
        [f.folder for f in survey.films],
        list(survey.formats),
        [f.view for f in survey.films],
        [f.sex for f in survey.films],
        [f.age_group for f in survey.films],
    )
    return {name: values for name, values in zip(CATEGORIES, columns, strict=True) if len(set(values) - {""}) > 1}


def report(
    survey: Survey, suspects: Sequence[Suspect], duplicates: Sequence[Duplicate], splits: Splits, recipe: Recipe
) -> dict[str, Any]:
    """Everything that the page shows, but for the curves."""
    every = [film for name in PARTS for film in getattr(splits, name)]
    return {
        "recipe": recipe.name,
        "recipe_digest": recipe.digest,
        "task": recipe.data.task,
        "outputs": list(recipe.data.outputs),
        "classes": list(recipe.data.classes),
        "splits_digest": splits.digest,
        "fingerprint": fingerprint(every, recipe.data),
        "parts": {name: balance(getattr(splits, name), recipe.data) for name in vars(splits)},
        "facts": {name: _by_class(values, survey, recipe.data) for name, values in survey.facts.items()},
        "exposure": _exposure(survey, recipe.data),
        "low_resolution": _low_resolution(survey, recipe),
        "files": _files(survey),
        "suspects": [asdict(s) | {"mark": s.mark} for s in suspects],
        "duplicates": [asdict(pair) for pair in duplicates],
    }


def balance(films: Sequence[Film], part: DataPart) -> dict[str, Any]:
    """Films and patients, in all and per source, and films per class."""
    folders = sorted({f.folder for f in films})

    def count(chosen: Sequence[Film]) -> dict[str, Any]:
        labels = Counter(name for f in chosen for name in shown(f))
        return {"films": len(chosen), "patients": patients(chosen), **{name: labels[name] for name in part.classes}}

    return {"all": count(films), **{folder: count([f for f in films if f.folder == folder]) for folder in folders}}


def members(survey: Survey, part: DataPart) -> dict[str, NDArray[np.bool_]]:
    """Class -> which of the opened films show it."""
    names = [shown(f) for f in survey.films]
    return {name: np.array([name in n for n in names], dtype=np.bool_) for name in part.classes}


def _by_class(values: Floats, survey: Survey, part: DataPart) -> dict[str, dict[str, float]]:
    """Quartiles per class."""
    found = {}
    for name, chosen in members(survey, part).items():
        known = values[chosen & np.isfinite(values)]
        if len(known):
            low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
            found[name] = {"n": len(known), "q25": float(low), "median": float(middle), "q75": float(high)}
    return found


def _exposure(survey: Survey, part: DataPart) -> dict[str, dict[str, float]]:
    """Per class: films under 50 and over 200 in the mean, and mean shares of dark and bright pixels."""
    mean = survey.facts["mean"]
    return {
        name: {
            "films": int(chosen.sum()),
            "under_exposed": int((chosen & (mean < UNDER_EXPOSED_BELOW)).sum()),
            "over_exposed": int((chosen & (mean > OVER_EXPOSED_ABOVE)).sum()),
            "dark_share": float(survey.facts["dark share"][chosen].mean()),
            "bright_share": float(survey.facts["bright share"][chosen].mean()),
        }
        for name, chosen in members(survey, part).items()
        if chosen.any()
    }


def _low_resolution(survey: Survey, recipe: Recipe) -> dict[str, dict[str, float]]:
    """Per class: share of films with a shorter side below the network's input: stored, and upstream where that is known."""
    size = recipe.input.size
    stored = survey.facts["longest side"] / np.maximum(survey.facts["aspect ratio"], 1 / survey.facts["aspect ratio"])
    upstream = np.array([min(f.width, f.height) if f.width and f.height else np.nan for f in survey.films])
    found = {}
    for name, chosen in members(survey, recipe.data).items():
        known = chosen & np.isfinite(upstream)
        if chosen.any():
            found[name] = {"stored": float((np.rint(stored[chosen]) < size).mean())}
            found[name] |= {"upstream": float((upstream[known] < size).mean())} if known.any() else {}
    return found


def _files(survey: Survey) -> dict[str, dict[str, Any]]:
    """Per source: formats, median JPEG quality, median bytes per pixel, frame sizes."""
    folders = np.array([f.folder for f in survey.films])
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(set(folders.tolist())):
        chosen = folders == folder
        quality = survey.facts["JPEG quality"][chosen]
        known = quality[np.isfinite(quality)]
        found[folder] = {
            "formats": dict(Counter(f for f, c in zip(survey.formats, chosen, strict=True) if c)),
            "jpeg_quality": float(np.median(known)) if len(known) else None,
            "bytes_per_pixel": float(np.median(survey.facts["bytes per pixel"][chosen])),
            "longest_side": float(np.median(survey.facts["longest side"][chosen])),
            "aspect_ratio": float(np.median(survey.facts["aspect ratio"][chosen])),
        }
    return found
