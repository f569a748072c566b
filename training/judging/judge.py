"""Logits of a run's network for films, and the sets of films that it is judged on.

The figures are computed in float32 on the run's weights; the exported network is compared with them at export.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from app.bundle.manifest import Calibration
from app.decision import margins, probabilities, scaled_logits
from training.data.cache import Pixels, load_pixels
from training.data.films import Film, read_manifest, read_nih_classes
from training.fitting.augment import standardise
from training.fitting.fit import labels_of
from training.judging.corruptions import KINDS, corrupt_all
from training.judging.figures import Judged
from training.networks.network import TriageNetwork
from training.places import Places
from training.recipe import Recipe

BATCH = 32
CLEAN = "clean"


@dataclass(frozen=True)
class Scored:
    """A set of films with its logits. labels: int64 [N]; logits: float64 [N]; patients, folders: str [N]."""

    name: str
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    patients: NDArray[np.str_]
    folders: NDArray[np.str_]

    def judged(self, calibration: Calibration) -> Judged:
        """Margins and shown probabilities by the service's own arithmetic (`app.decision`)."""
        scaled = margins("binary", scaled_logits(self.logits[:, None], calibration))
        shown = probabilities("binary", scaled, calibration)
        return Judged(self.labels, scaled[:, 0], shown[:, 0], self.patients)


@torch.inference_mode()
def run_network(network: TriageNetwork, films: NDArray[np.uint8], std_floor: float) -> NDArray[np.float64]:
    """Logits float64 [N] of uint8 films [N, S, S], in float32 arithmetic."""
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    parts = []
    for start in range(0, len(films), BATCH):
        gray = torch.from_numpy(np.array(films[start : start + BATCH])).float()[:, None]
        image = standardise(gray, std_floor).contiguous(memory_format=torch.channels_last)
        parts.append(network(image)[0][:, 0].double().numpy())
    return np.concatenate(parts)


def score(name: str, network: TriageNetwork, pixels: Pixels, recipe: Recipe) -> Scored:
    """The films as the service sees them."""
    return _scored(name, pixels.films, run_network(network, pixels.plain, std_floor(recipe)), recipe)


def score_corrupted(network: TriageNetwork, pixels: Pixels, recipe: Recipe, half: str) -> Iterator[Scored]:
    """The films under every corruption and severity of the recipe; names are `kind-severity`."""
    names = [film.path for film in pixels.films]
    steps = [(kind, level) for kind in KINDS for level in recipe.hard_validation.severities]
    for kind, level in track(steps, description=f"hard validation, {half}", transient=True):
        changed = corrupt_all(pixels.plain, kind, level, names)
        logits = run_network(network, changed, std_floor(recipe))
        yield _scored(f"{kind}-{level}", pixels.films, logits, recipe)


def std_floor(recipe: Recipe) -> float:
    """The recipe allows per-image normalisation only, which has a floor."""
    normalisation = recipe.input.normalisation
    if normalisation.kind != "per_image":
        raise ValueError("per-image normalisation is the only one that training takes")
    return normalisation.std_floor


def plain_pixels(films: Sequence[Film], recipe: Recipe, places: Places) -> Pixels:
    """The films as the service sees them, without recompressed copies."""
    return load_pixels(places.data, films, recipe.input, places.cache)


def nih_films(recipe: Recipe, places: Places) -> list[Film]:
    """The NIH films of the hard validation; none where the recipe names no folder."""
    folder = recipe.hard_validation.nih_folder
    return read_manifest(places.data, folder) if folder else []


def nih_clean(films: Sequence[Film], recipe: Recipe, places: Places) -> NDArray[np.bool_]:
    """Which NIH films have a label that no second reader contradicts: bool [N].

    Positive: an opacity seen by the RSNA readers or by the 2019 adjudication. Negative: no opacity seen, and not `No Lung Opacity /
    Not Normal`. Report-mined positives that nobody re-read are left out.
    """
    opinions = read_nih_classes(places.data, recipe.hard_validation.nih_folder or "")
    kept = []
    for film in films:
        second = opinions[film.path]
        opacity = second.rsna == "Lung Opacity" or second.google_opacity == "YES"
        if film.label == recipe.data.positive:
            kept.append(opacity)
        else:
            kept.append(not opacity and second.rsna in {"", "Normal"})
    return np.array(kept, dtype=np.bool_)


def _scored(name: str, films: Sequence[Film], logits: NDArray[np.float64], recipe: Recipe) -> Scored:
    return Scored(
        name=name,
        labels=labels_of(tuple(films), recipe.data.positive),
        logits=logits,
        patients=np.array([f.patient for f in films]),
        folders=np.array([f.folder for f in films]),
    )
