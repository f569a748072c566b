"""Fitting: seeded, resumable, watched by a progress bar.

After every epoch everything that continuing needs goes to one checkpoint file, atomically. All chance in an epoch comes from
generators seeded with (seed, epoch), so a run that was killed and started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import copy
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from app.errors import ConfigurationError
from training.data.cache import Pixels, load_pixels
from training.data.films import Film, read_manifests
from training.data.splits import Splits, make_splits
from training.fitting.augment import augment, standardise
from training.networks.network import TriageNetwork, build_network
from training.places import Places
from training.recipe import Recipe, TrainingPart
from training.runs import Run, environment, open_run, write_atomically


@dataclass
class State:
    """What changes during a fit. `epoch`: epochs done; `history`: one entry per epoch; `seconds`: spent so far."""

    network: TriageNetwork
    average: TriageNetwork
    optimiser: torch.optim.AdamW
    epoch: int
    history: list[dict[str, float]]
    seconds: float


def recipe_splits(recipe: Recipe, places: Places) -> Splits:
    """The recipe's splits from the manifests; no image is opened."""
    return make_splits(read_manifests(places.data, recipe.data.folders), recipe.data, recipe.seed)


def labels_of(films: tuple[Film, ...], positive: str) -> NDArray[np.int64]:
    """int64 [N]: 1 for the positive class."""
    return np.array([film.label == positive for film in films], dtype=np.int64)


def fit(recipe: Recipe, places: Places, console: Console) -> Run:
    """Train to the end of the recipe, from the last checkpoint if there is one. Returns the complete run."""
    run = open_run(recipe, places)
    with _locked(run.path):
        if run.complete:
            console.print(f"{run.path.name} is complete; nothing to do")
            return run
        splits = recipe_splits(recipe, places)
        sizes = {name: len(films) for name, films in vars(splits).items()}
        run.write_json("splits.json", {"digest": splits.digest, "films": sizes})
        pixels = load_pixels(
            places.data, splits.train, recipe.input, places.cache, copies=recipe.data.cached_copies, seed=recipe.seed
        )
        run.write_json("environment.json", {**environment(), "training_data_digest": pixels.digest})
        state = _restore(run) or _start(recipe)
        labels = labels_of(splits.train, recipe.data.positive)
        with _progress(console) as progress:
            while state.epoch < recipe.training.epochs:
                _epoch(recipe, state, pixels, labels, progress)
                _save(run, state)
                console.print(_line(state.history[-1], recipe.training.epochs))
        result = state.average if recipe.training.weights == "ema" else state.network
        run.write_json("fitted.json", {"seconds": round(state.seconds, 1), "epochs": state.epoch})
        _save_tensors(run.weights_file, {k: v.detach().clone() for k, v in result.state_dict().items()})
    return run


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One fit per run folder at a time."""
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError("run_busy", f"another process is fitting {folder.name}") from error
        yield


def _start(recipe: Recipe) -> State:
    network = build_network(recipe.network, recipe.seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return State(network, copy.deepcopy(network), _optimiser(network, recipe.training), 0, [], 0.0)


def _optimiser(network: TriageNetwork, part: TrainingPart) -> torch.optim.AdamW:
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": part.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=part.learning_rate)


def _restore(run: Run) -> State | None:
    path = run.path / "checkpoint.pt"
    if not path.is_file():
        return None
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    state = _start(run.recipe)
    state.network.load_state_dict(saved["network"])
    state.average.load_state_dict(saved["average"])
    state.optimiser.load_state_dict(saved["optimiser"])
    state.epoch, state.history, state.seconds = saved["epoch"], saved["history"], saved["seconds"]
    return state


def _save(run: Run, state: State) -> None:
    content = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "epoch": state.epoch,
        "history": state.history,
        "seconds": state.seconds,
    }
    _save_tensors(run.path / "checkpoint.pt", content)
    write_atomically(run.path / "metrics.jsonl", "".join(json.dumps(h) + "\n" for h in state.history).encode())


def _save_tensors(path: Path, content: Any) -> None:
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _line(entry: dict[str, float], epochs: int) -> str:
    return (
        f"epoch {int(entry['epoch'])}/{epochs}  loss {entry['loss']:.4f}  accuracy {entry['accuracy']:.4f}  "
        f"lr {entry['learning_rate']:.2e}  {entry['seconds']:.0f} s"
    )


def _epoch(recipe: Recipe, state: State, pixels: Pixels, labels: NDArray[np.int64], progress: Progress) -> None:
    """One pass over the training films, in place on `state`."""
    epoch = state.epoch
    part, size = recipe.training, recipe.training.size_of(epoch)
    begun = time.monotonic()
    rng = np.random.default_rng([recipe.seed, epoch])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    order = rng.permutation(len(labels))
    steps = len(order) // part.batch  # the rest of fewer than a batch waits for another epoch's order
    if steps == 0:
        raise ConfigurationError("too_few_films", f"{len(order)} training films do not fill a batch of {part.batch}")
    weight = float((labels == 0).sum() / max(1, (labels == 1).sum())) if part.balance else 1.0
    torch.manual_seed(int(rng.integers(2**62)))  # dropout draws from torch's global generator
    state.network.train()
    losses, hits = 0.0, 0
    task = progress.add_task(f"epoch {epoch + 1}/{part.epochs} at {size} px", total=steps)
    for step in range(steps):
        chosen = order[step * part.batch : (step + 1) * part.batch]
        copies = rng.integers(pixels.images.shape[1], size=len(chosen))
        films = torch.from_numpy(pixels.images[chosen, copies])
        image = standardise(augment(films, recipe.augmentation, size, generator), recipe.input.normalisation.std_floor)  # type: ignore[union-attr]  # the recipe allows per_image only
        target = torch.from_numpy(labels[chosen]).float()
        done = epoch * steps + step
        _set_rate(state.optimiser, part, done / (part.epochs * steps))
        loss, right = _step(state, part, image, target, weight)
        _average(state, part.ema_decay, done)
        losses, hits = losses + loss, hits + right
        progress.advance(task)
    progress.remove_task(task)
    state.epoch = epoch + 1
    seconds = time.monotonic() - begun
    state.seconds += seconds
    entry = {"epoch": epoch + 1, "size": size, "loss": losses / steps, "accuracy": hits / (steps * part.batch)}
    rate = state.optimiser.param_groups[0]["lr"]
    state.history.append({**entry, "learning_rate": rate, "seconds": round(seconds, 2)})


def _step(state: State, part: TrainingPart, image: Tensor, target: Tensor, positive_weight: float) -> tuple[float, int]:
    """One optimiser step. Returns the loss and the number of films on the right side of zero."""
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=part.bfloat16):
        logits, _ = state.network(image)
    logits = logits.float()[:, 0]
    smooth = target * (1 - part.label_smoothing) + 0.5 * part.label_smoothing
    loss = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=torch.tensor(positive_weight))
    if not math.isfinite(loss.item()):
        raise ConfigurationError("diverged", "the loss is no longer a number; lower the learning rate")
    state.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), part.gradient_clip)
    state.optimiser.step()
    return loss.item(), int(((logits > 0) == (target > 0.5)).sum())


def _set_rate(optimiser: torch.optim.AdamW, part: TrainingPart, position: float) -> None:
    """Linear warm-up, then a cosine from the full rate to zero; `position` in [0, 1) of the whole fit."""
    if position < part.warmup_share:
        factor = (position + 1e-3) / (part.warmup_share + 1e-3)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (position - part.warmup_share) / (1 - part.warmup_share)))
    for group in optimiser.param_groups:
        group["lr"] = part.learning_rate * factor


@torch.no_grad()
def _average(state: State, decay: float, step: int) -> None:
    """Exponential moving average of weights and of batch statistics; young averages forget faster."""
    decay = min(decay, (1 + step) / (10 + step))
    source = state.network.state_dict()
    for name, value in state.average.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(source[name], 1 - decay)
        else:
            value.copy_(source[name])
