"""One epoch of a fit.

All chance in an epoch comes from generators seeded with (seed, epoch), so an epoch that is begun again after a kill shows the same films
in the same way. Batches are prepared in line with the arithmetic: preparing takes 5 % of a step on a CPU (`benchmarks.training`), and
both cores are busy with the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn

from app.errors import ConfigurationError
from training.fitting.augment import augment, network_input
from training.fitting.checkpoint import State
from training.fitting.distributed import Processes
from training.fitting.losses import Loss
from training.fitting.mixup import mixup
from training.fitting.sampling import epoch_order
from training.fitting.schedule import set_rate
from training.networks.freezing import set_trainable
from training.recipe import Recipe

_LOOK_EVERY = 50  # steps between looks at the loss on an accelerator, where each look waits for the device


@dataclass(frozen=True)
class TrainingSet:
    """images: uint8 [N, V, S, S], V copies of each film; target: float32 [N, K]; sources: of each film."""

    images: NDArray[np.uint8]
    target: NDArray[np.float32]
    sources: Sequence[str]


@dataclass(frozen=True)
class Session:
    """What stays the same in all epochs of a fit."""

    recipe: Recipe
    films: TrainingSet
    loss: Loss
    processes: Processes


@dataclass(frozen=True)
class Batch:
    """image: float32 [B, C, S, S], channels last; target: float32 [B, K]; both on the device."""

    image: Tensor
    target: Tensor


def batches(
    recipe: Recipe, films: TrainingSet, epoch: int, device: torch.device, rank: int = 0
) -> tuple[int, Iterator[Batch]]:
    """The number of steps of an epoch, and its batches, over all processes together. rank: dropout differs between processes.

    The rest of fewer than a batch waits for another epoch's order. Raises ConfigurationError where no batch is full.
    """
    part = recipe.training
    rng = np.random.default_rng([recipe.seed, epoch])
    generator = torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(int(rng.integers(2**62)))
    order = epoch_order(films.target, films.sources, part, recipe.data.task, rng)
    size = part.size_of(min(epoch, part.epochs - 1))  # one epoch beyond the last: for batch statistics alone
    steps = len(order) // part.batch
    if steps == 0:
        raise ConfigurationError("too_few_films", f"{len(order)} training films do not fill a batch of {part.batch}")
    torch.manual_seed(int(rng.integers(2**62)) + rank)  # dropout draws from torch's global generator

    def each() -> Iterator[Batch]:
        for step in range(steps):
            chosen = order[step * part.batch : (step + 1) * part.batch]
            copies = rng.integers(films.images.shape[1], size=len(chosen))
            gray = torch.from_numpy(films.images[chosen, copies]).to(generator.device)
            image = augment(gray, recipe.augmentation, size, generator)
            image = network_input(image.to(device), recipe.input)
            image, target = mixup(image, torch.from_numpy(films.target[chosen]).to(device), part.mixup, rng)
            yield Batch(image.contiguous(memory_format=torch.channels_last), target)

    return steps, each()


def run_epoch(session: Session, state: State, progress: Progress) -> dict[str, float]:
    """One pass over the training films, in place on `state`. Returns the epoch's line of metrics.jsonl, without validation."""
    recipe, processes = session.recipe, session.processes
    part, epoch = recipe.training, state.epoch
    begun = time.monotonic()
    steps, prepared = batches(recipe, session.films, epoch, processes.device, processes.rank)
    rows = processes.rows(part.batch)
    set_trainable(state.network, recipe.network, epoch)
    network = processes.wrap(state.network)
    mean = torch.zeros((), device=processes.device)
    rate = 0.0
    task = progress.add_task(f"epoch {epoch + 1}/{part.epochs} at {part.size_of(epoch)} px", total=steps)
    for step, batch in enumerate(prepared):
        done = epoch * steps + step
        rate = set_rate(
            state.optimiser, part.schedule, part.learning_rate, done / (part.epochs * steps), state.watch.reductions
        )
        value = _step(session, state, network, batch, rows)
        mean += value
        if processes.device.type == "cpu" or step % _LOOK_EVERY == 0 or step == steps - 1:
            _check_finite(mean)
        state.average.after_step(done)
        progress.advance(task)
    progress.remove_task(task)
    processes.check_same(state.network)
    state.average.after_epoch(epoch, part)
    state.epoch = epoch + 1
    shown = processes.total(float(mean) / steps)
    seconds = time.monotonic() - begun
    state.seconds += seconds
    speed = {"seconds": round(seconds, 2), "images_per_s": round(steps * part.batch / seconds, 2)}
    return {"epoch": epoch + 1, "size": part.size_of(epoch), "loss": shown, "learning_rate": rate, **speed}


def _step(session: Session, state: State, network: nn.Module, batch: Batch, rows: slice) -> Tensor:
    """One optimiser step on this process's rows. Returns its part of the batch's loss, detached; the parts of all add up to it."""
    with state.arithmetic.autocast():
        logits, _ = network(batch.image[rows])
    own = session.loss.total(logits, batch.target[rows]) / session.loss.denominator(batch.target)
    state.arithmetic.step(
        own * session.processes.count, network, state.optimiser
    )  # gradients are averaged over the processes
    return own.detach()


def _check_finite(value: Tensor) -> None:
    if not math.isfinite(value.item()):
        raise ConfigurationError(
            "diverged", "the loss is no longer a number: lower training.learning_rate, or set gradient_clip"
        )
