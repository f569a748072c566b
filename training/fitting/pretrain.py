"""Self-supervised pre-training of a body: seeded, resumable, watched for collapse. Labels are not read.

The result lies in the cache under a digest of everything that shapes it, so that recipes which pre-train alike share it:

    <architecture>-<digest16>.safetensors    the body, under torchvision's names
    <architecture>-<digest16>.json           films by folder, what was left out, one entry per epoch
    <architecture>-<digest16>.checkpoint.pt  everything that continuing needs; gone when the result is there

Films of the recipe's validation, test and external sets are left out, and so are others of the same patient, other copies of the
same picture (by perceptual hash), and films whose patient is not known (unless their source has side `train`).
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import update_bn

from app.errors import ConfigurationError
from training.data.cache import Pixels, load_pixels
from training.data.collect import collect
from training.data.films import Film
from training.data.leaks import without_copies
from training.data.splits import recipe_splits
from training.fitting.augment import network_input
from training.fitting.objectives import Masked, Objective, SimSiam, spread
from training.networks.network import TriageNetwork, build_network
from training.networks.onnx_export import feature_shape
from training.networks.spec import PretrainingPart
from training.networks.weights import body_bytes
from training.places import Places
from training.recipe import Recipe
from training.runs import write_atomically
from training.spec import input_content

FORMAT = 1  # raise when the same recipe would give other weights
WARM_UP = 0.1
COLLAPSED = 0.1  # of the untrained network's `spread`; healthy bodies kept half of it and more
WATCHED = 128  # films
_BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
_CHANCE = 0x5E1F  # sets the pre-training's chance apart from the fit's


@dataclass
class State:
    """What changes. epoch: epochs done; history: one entry per epoch. untrained: the spread before the first step."""

    network: TriageNetwork
    objective: Objective
    optimiser: torch.optim.AdamW
    untrained: float
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def pretrained_body(recipe: Recipe, films: Sequence[Film], places: Places, console: Console) -> Path:
    """Pre-train as `recipe.pretraining` says, from the last checkpoint if there is one. `training.networks.weights.load_body` reads it.

    Args:
        films: the recipe's training films, which are learned from where `pretraining.sources` is empty.

    Raises:
        ConfigurationError: `no_pretraining`, `too_few_films`, `diverged` (the loss is no longer a number), `collapsed` (the body tells
            films no longer apart).
    """
    part = recipe.pretraining
    if part is None:
        raise ConfigurationError("no_pretraining", f"{recipe.name} has no [pretraining]")
    if part.size > recipe.input.size:
        raise ConfigurationError("invalid_recipe", f"pretraining.size is at most the input's {recipe.input.size} px")
    allowed, left_out = usable_films(recipe, films, places)
    if len(allowed) < part.batch:
        told = ", ".join(f"{count} {why}" for why, count in left_out.items())
        raise ConfigurationError("too_few_films", f"{len(allowed)} films do not fill a batch of {part.batch} ({told})")
    pixels = load_pixels(places.data, allowed, recipe.input, places.cache)
    result = places.cache / f"{recipe.network.architecture}-{_digest(recipe, part, pixels)}.safetensors"
    with _alone(result):
        if not result.is_file():
            told = "".join(f", {count} {why}" for why, count in left_out.items())
            console.print(f"pre-training {recipe.network.architecture} on {len(allowed)} films{told}")
            state = _train(recipe, part, pixels, result, console)
            facts = {
                "method": part.method,
                "films": len(allowed),
                "folders": dict(sorted(Counter(film.folder for film in allowed).items())),
                "left_out": left_out,
                "data_digest": pixels.digest,
                "untrained_spread": state.untrained,
                "history": state.history,
            }
            write_atomically(result.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())
            write_atomically(result, body_bytes(state.network))  # last: its presence says that all is there
            _checkpoint(result).unlink(missing_ok=True)
    return result


def pretraining_facts(result: Path) -> dict[str, Any]:
    """method, films, folders (films by folder), left_out, data_digest and the history, of a finished pre-training."""
    facts: dict[str, Any] = json.loads(result.with_suffix(".json").read_text(encoding="utf-8"))
    return facts


def usable_films(recipe: Recipe, films: Sequence[Film], places: Places) -> tuple[tuple[Film, ...], dict[str, int]]:
    """What may be learned from, in path order, and how many films were left out for which reason."""
    sources = recipe.pretraining.sources if recipe.pretraining is not None else ()
    candidates = _limited(recipe, collect(sources, places.data)) if sources else list(films)
    splits = recipe_splits(recipe, places)
    held = [*splits.fit, *splits.report, *splits.test]
    held += [f for one in recipe.evaluation.external for f in collect(one.sources, places.data)]
    open_ = [film for film in candidates if film.side != "test"]
    known = [film for film in open_ if film.patient or film.side == "train"]
    allowed = without_copies(known, held, places, recipe.data.duplicate_bits)
    left_out = {
        "of a held-out source left out": len(candidates) - len(open_),
        "of unknown patients left out": len(open_) - len(known),
        "of held-out patients, or copies of held-out films, left out": len(known) - len(allowed),
    }
    ordered = tuple(sorted(allowed, key=lambda film: film.path))
    return ordered, {why: count for why, count in left_out.items() if count}


def _limited(recipe: Recipe, films: Sequence[Film]) -> list[Film]:
    """At most `limit` films of each source that has one, chosen by a hash of seed and path. Its labels do not matter here."""
    limits = {source.folder: source.limit for source in recipe.pretraining.sources} if recipe.pretraining else {}
    kept: list[Film] = []
    for folder in dict.fromkeys(film.folder for film in films):
        of_source = [film for film in films if film.folder == folder]
        of_source.sort(key=lambda f: hashlib.sha256(f"{recipe.data.split_seed}:{f.path}".encode()).digest())
        kept += of_source[: limits.get(folder)]
    return kept


def _digest(recipe: Recipe, part: PretrainingPart, pixels: Pixels) -> str:
    choices = part.model_dump(mode="json", exclude={"sources"})
    seen = [recipe.network.architecture, input_content(recipe.input), recipe.training.autocast, recipe.seed]
    content = json.dumps([FORMAT, choices, seen, pixels.digest], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@contextmanager
def _alone(result: Path) -> Iterator[None]:
    """One process at a time; another one that wants the same body waits for it."""
    result.parent.mkdir(parents=True, exist_ok=True)
    with result.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _checkpoint(result: Path) -> Path:
    return result.with_suffix(".checkpoint.pt")


def _start(recipe: Recipe, part: PretrainingPart, pixels: Pixels) -> State:
    channels = recipe.input.channels
    network = build_network(recipe.network, outputs=1, channels=channels, seed=recipe.seed)
    width, height, _ = feature_shape(network, part.size, channels)
    objective: Objective
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if part.method == "simsiam":
            objective = SimSiam(network.body, width, recipe.input, part.size)
        else:
            objective = Masked(network.body, width, recipe.input, part.size, -(-part.size // height))
    objective = objective.to(_device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    weights = [p for p in objective.parameters() if p.ndim > 1]
    others = [p for p in objective.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": part.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=part.learning_rate)
    return State(network, objective, optimiser, spread(_watched(objective, pixels)))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _restore(recipe: Recipe, part: PretrainingPart, pixels: Pixels, result: Path) -> State:
    state = _start(recipe, part, pixels)
    if _checkpoint(result).is_file():
        saved: dict[str, Any] = torch.load(_checkpoint(result), weights_only=True, map_location=_device())
        state.objective.load_state_dict(saved["objective"])
        state.optimiser.load_state_dict(saved["optimiser"])
        state.epoch, state.history = saved["epoch"], saved["history"]
    return state


def _save(state: State, result: Path) -> None:
    content = {"objective": state.objective.state_dict(), "optimiser": state.optimiser.state_dict()}
    temporary = _checkpoint(result).with_suffix(".partial")
    torch.save({**content, "epoch": state.epoch, "history": state.history}, temporary)
    temporary.replace(_checkpoint(result))


def _train(recipe: Recipe, part: PretrainingPart, pixels: Pixels, result: Path, console: Console) -> State:
    state = _restore(recipe, part, pixels, result)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress, torch.random.fork_rng(devices=[]):
        while state.epoch < part.epochs:
            _epoch(recipe, part, state, pixels, progress)
            _save(state, result)
            last = state.history[-1]
            console.print(
                f"pre-training epoch {state.epoch}/{part.epochs}  loss {last['loss']:.4f}  spread {last['spread']:.3f}  "
                f"{last['seconds']:.0f} s"
            )
        starts = range(0, len(pixels.films) - part.batch + 1, part.batch)
        batches = (_plain(state.objective, pixels, at, part.batch) for at in starts)
        update_bn(batches, state.objective.body)  # the fit sees whole films, not the views
    return state


def _epoch(recipe: Recipe, part: PretrainingPart, state: State, pixels: Pixels, progress: Progress) -> None:
    """One pass over the films, in place on `state`. All chance comes from (seed, epoch)."""
    begun = time.monotonic()
    rng = np.random.default_rng([recipe.seed, _CHANCE, state.epoch])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    torch.manual_seed(int(rng.integers(2**62)))  # dropout and stochastic depth draw from torch's global generator
    order = rng.permutation(len(pixels.films))
    steps = len(order) // part.batch  # the rest of fewer than a batch waits for another epoch's order
    state.objective.train()
    task = progress.add_task(f"pre-training epoch {state.epoch + 1}/{part.epochs} at {part.size} px", total=steps)
    total = 0.0
    for step in range(steps):
        chosen = np.sort(order[step * part.batch : (step + 1) * part.batch])
        views = state.objective.views(torch.from_numpy(pixels.plain[chosen]), generator)
        _set_rate(state.optimiser, part, (state.epoch * steps + step) / (part.epochs * steps))
        total += _step(recipe, state, views)
        progress.advance(task)
    progress.remove_task(task)
    state.epoch += 1
    embedded = _watched(state.objective, pixels)
    entry = {"epoch": state.epoch, "loss": total / steps, "spread": spread(embedded)}
    state.history.append({**entry, "films": steps * part.batch, "seconds": round(time.monotonic() - begun, 2)})
    if entry["spread"] < COLLAPSED * state.untrained:
        raise ConfigurationError(
            "collapsed",
            f"after epoch {state.epoch} all films have nearly the same embedding (spread {entry['spread']:.4f}, untrained "
            f'{state.untrained:.4f}): lower pretraining.learning_rate, or take method = "masked"',
        )


def _step(recipe: Recipe, state: State, views: tuple[Tensor, ...]) -> float:
    device = _device()
    ready = [view.to(device).contiguous(memory_format=torch.channels_last) for view in views]
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.training.autocast == "bfloat16"):
        loss: Tensor = state.objective(*ready)
    if not math.isfinite(loss.item()):
        raise ConfigurationError("diverged", "the pre-training's loss is no longer a number; lower its learning rate")
    state.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    torch.nn.utils.clip_grad_norm_(state.objective.parameters(), 1.0)
    state.optimiser.step()
    return loss.item()


def _set_rate(optimiser: torch.optim.AdamW, part: PretrainingPart, position: float) -> None:
    """Linear warm-up, then a cosine from the full rate to zero; `position` in [0, 1) of the whole pre-training."""
    if position < WARM_UP:
        factor = (position + 1e-3) / (WARM_UP + 1e-3)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (position - WARM_UP) / (1 - WARM_UP)))
    for group in optimiser.param_groups:
        group["lr"] = part.learning_rate * factor


def _plain(objective: Objective, pixels: Pixels, at: int, batch: int) -> Tensor:
    """Unchanged films as images of the training size."""
    films = torch.from_numpy(pixels.plain[at : at + batch].astype(np.float32))[:, None]
    size = (objective.size, objective.size)
    gray = torch.nn.functional.interpolate(films, size, mode="bilinear", antialias=True, align_corners=False)
    return network_input(gray, objective.spec).to(_device())


@torch.inference_mode()
def _watched(objective: Objective, pixels: Pixels) -> Tensor:
    """Embeddings [N, D] of the first films as they are, with batch statistics of their own: running ones lag behind."""
    watched = copy.deepcopy(objective).eval()
    for layer in watched.modules():
        if isinstance(layer, _BATCH_NORMS):
            layer.train()
    return watched.embed(_plain(watched, pixels, 0, WATCHED))
