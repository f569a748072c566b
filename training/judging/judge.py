"""The sets of films that a run is judged on, and what its network says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.progress import track

from training.data.cache import Pixels, load_pixels
from training.data.collect import collect
from training.data.films import Film
from training.data.targets import targets
from training.fitting.optimise import choose_device
from training.judging.corruptions import corrupt_all
from training.judging.reading import Read, reader
from training.judging.scored import Floats, Scored
from training.places import Places
from training.recipe import Recipe
from training.runs import Run

CLEAN = "clean"
SELECTION_KINDS = ("exposure", "contrast", "gamma", "crop", "blur")  # fixed before training; suites are reported only


def judging_reader(run: Run) -> Read:
    """What the run's network says of films: by torch on the accelerator if there is one, else by the engine that serves."""
    return reader(run.network().to(choose_device()), run.recipe)


def score(name: str, read: Read, pixels: Pixels, recipe: Recipe) -> Scored:
    """The films as the service sees them."""
    return scored_films(name, pixels.films, read(pixels.plain).logits, recipe)


def score_corrupted(read: Read, pixels: Pixels, recipe: Recipe, half: str) -> Iterator[Scored]:
    """The films under every corruption and severity of the selection figure; names are `kind-severity`."""
    names = [film.path for film in pixels.films]
    steps = [(kind, level) for kind in SELECTION_KINDS for level in recipe.evaluation.severities]
    for kind, level in track(steps, description=f"hard validation, {half}", transient=True):
        changed = corrupt_all(pixels.plain, kind, level, names)
        yield scored_films(f"{kind}-{level}", pixels.films, read(changed).logits, recipe)


def score_external(read: Read, recipe: Recipe, places: Places) -> dict[str, Scored]:
    """The recipe's external sets by name, in its order. A film that stands in several of them is read once.

    Raises ConfigurationError for a source without films.
    """
    sets = {part.name: collect(part.sources, places.data, recipe.data) for part in recipe.evaluation.external}
    every = {film.path: film for films in sets.values() for film in films}
    if not every:
        return {}
    pixels = plain_pixels(list(every.values()), recipe, places)
    logits = read(pixels.plain).logits
    row = {path: i for i, path in enumerate(every)}
    return {
        name: scored_films(name, films, logits[[row[f.path] for f in films]], recipe) for name, films in sets.items()
    }


def plain_pixels(films: Sequence[Film], recipe: Recipe, places: Places) -> Pixels:
    """The films as the service sees them, without recompressed copies."""
    return load_pixels(places.data, films, recipe.input, places.cache)


def scored_films(name: str, films: Sequence[Film], logits: Floats, recipe: Recipe) -> Scored:
    """The films with their truth and the given logits [N, K]. A film whose patient is not known is a patient of its own."""
    return Scored(
        name=name,
        task=recipe.data.task,
        outputs=recipe.data.outputs,
        targets=targets(films, recipe.data).astype(np.float64),
        logits=logits,
        patients=np.array([film.patient or film.path for film in films], dtype=np.str_),
        sources=np.array([film.folder for film in films], dtype=np.str_),
        paths=np.array([film.path for film in films], dtype=np.str_),
    )
