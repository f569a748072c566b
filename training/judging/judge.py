"""Logits of a run's network for films, and the sets of films that it is judged on.

The figures are computed in float32 on the run's weights, on whatever device the network is; the exported network is compared with
them at export.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from training.data.cache import Pixels, load_pixels
from training.data.collect import collect
from training.data.films import Film
from training.data.targets import targets
from training.fitting.augment import network_input
from training.fitting.optimise import choose_device
from training.judging.corruptions import corrupt_all
from training.judging.scored import Floats, Scored
from training.networks.network import TriageNetwork
from training.places import Places
from training.recipe import Recipe
from training.runs import Run

BATCH = 32
CLEAN = "clean"
SELECTION_KINDS = ("exposure", "contrast", "gamma", "crop", "blur")  # fixed before training; suites are reported only


@torch.inference_mode()
def run_network(network: TriageNetwork, films: NDArray[np.uint8], recipe: Recipe) -> Floats:
    """Logits float64 [N, K] of uint8 films [N, S, S], in float32 arithmetic on the network's device; evaluation mode."""
    device = next(network.parameters()).device
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    parts = [np.empty((0, len(recipe.data.outputs)))]
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for start in range(0, len(films), BATCH):
            gray = torch.from_numpy(np.array(films[start : start + BATCH])).to(device).float()[:, None]
            image = network_input(gray, recipe.input).contiguous(memory_format=torch.channels_last)
            parts.append(network(image)[0].cpu().double().numpy())
    return np.concatenate(parts)


def judging_network(run: Run) -> TriageNetwork:
    """The run's network where it is judged: on the accelerator if there is one, else on the CPU."""
    return run.network().to(choose_device())


def score(name: str, network: TriageNetwork, pixels: Pixels, recipe: Recipe) -> Scored:
    """The films as the service sees them."""
    return scored_films(name, pixels.films, run_network(network, pixels.plain, recipe), recipe)


def score_corrupted(network: TriageNetwork, pixels: Pixels, recipe: Recipe, half: str) -> Iterator[Scored]:
    """The films under every corruption and severity of the selection figure; names are `kind-severity`."""
    names = [film.path for film in pixels.films]
    steps = [(kind, level) for kind in SELECTION_KINDS for level in recipe.evaluation.severities]
    for kind, level in track(steps, description=f"hard validation, {half}", transient=True):
        changed = corrupt_all(pixels.plain, kind, level, names)
        yield scored_films(f"{kind}-{level}", pixels.films, run_network(network, changed, recipe), recipe)


def score_external(network: TriageNetwork, recipe: Recipe, places: Places) -> dict[str, Scored]:
    """The recipe's external sets by name, in its order. A film that stands in several of them is run through the network once.

    Raises ConfigurationError for a source without films.
    """
    sets = {part.name: collect(part.sources, places.data, recipe.data) for part in recipe.evaluation.external}
    every = {film.path: film for films in sets.values() for film in films}
    if not every:
        return {}
    pixels = plain_pixels(list(every.values()), recipe, places)
    logits = run_network(network, pixels.plain, recipe)
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
