"""Fitting: seeded, resumable, watched by a progress bar, in one process or in several.

After every epoch everything that continuing needs goes to one checkpoint file, atomically. All chance in an epoch comes from
generators seeded with (seed, epoch), so a run that was killed and started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.errors import ConfigurationError
from training.data.cache import Pixels, load_pixels, training_pixels
from training.data.fingerprint import fingerprint
from training.data.leaks import check_duplicates
from training.data.splits import recipe_splits
from training.data.targets import targets
from training.fitting.average import Average, reestimate_statistics
from training.fitting.checkpoint import State, restore, save, save_tensors, write_curve
from training.fitting.distributed import Processes, processes
from training.fitting.loop import Session, TrainingSet, batches, run_epoch
from training.fitting.losses import Loss, build_loss
from training.fitting.optimise import Arithmetic, build_optimiser
from training.fitting.pretrain import pretrained_body
from training.fitting.sampling import epoch_order
from training.fitting.stopping import validate, watched
from training.networks.freezing import frozen_layers
from training.networks.network import TriageNetwork, build_network
from training.networks.weights import load_body, load_weights
from training.places import Places
from training.recipe import Recipe
from training.runs import Run, environment, open_run

OnEpoch = Callable[[Mapping[str, float]], None]

_SETTLING = 50  # batches that set the statistics of a frozen body without weights


@dataclass(frozen=True)
class Films:
    """What a fit sees: the training films, and the clean fit-half of the validation where it is watched."""

    training: TrainingSet
    watched: NDArray[np.uint8] | None
    watched_target: NDArray[np.float32]


def fit(recipe: Recipe, places: Places, console: Console, on_epoch: OnEpoch | None = None) -> Run:
    """Train to the end of the recipe, from the last checkpoint if there is one. Returns the complete run.

    Under torchrun every process calls this; process 0 writes and prints. on_epoch: told each epoch's line of metrics.jsonl after its
    checkpoint is kept (process 0); what it raises ends the fit, which the same call would go on with.

    Raises:
        ConfigurationError: `run_busy`, `too_few_films`, `diverged`, `batch_not_shared`, `float16_needs_accelerator`, `early_stopping`,
            `leak`, `old_checkpoint`, `data_changed`, and what reading the films or the starting weights raises.
    """
    group = processes()
    console = console if group.first else Console(quiet=True)
    if not group.first:
        group.wait()  # process 0 makes the folder
    run = open_run(recipe, places) if group.first else Run(places.runs / recipe.run_name, recipe)
    with _locked(run.path, group):
        if group.first:
            group.wait()
        if run.complete:
            console.print(f"{run.path.name} is complete; nothing to do")
        else:
            _fit(run, places, console, group, on_epoch)
        group.wait()
    return run


def _fit(run: Run, places: Places, console: Console, group: Processes, on_epoch: OnEpoch | None) -> None:
    recipe = run.recipe
    films = _films(run, places, group)
    session = Session(recipe, films.training, _loss(recipe, films.training, group.device), group)
    state = _begin(run, places, films.training, console, group)
    with _progress(console) as progress:
        while state.epoch < recipe.training.epochs and not state.stopped:
            entry = run_epoch(session, state, progress)
            _look(session, state, films, entry)
            if group.first:
                save(run, state)
            console.print(_line(entry, recipe.training.epochs))
            if group.first and on_epoch is not None:
                on_epoch(entry)
        if recipe.training.average.kind == "swa":
            _reestimate(recipe, state, films.training, group.device)
    if group.first:
        _finish(run, state)


def _films(run: Run, places: Places, group: Processes) -> Films:
    """The films of the recipe; process 0 decodes what is not cached, and notes what was read."""
    recipe = run.recipe
    splits = recipe_splits(recipe, places)
    if group.first:
        within = check_duplicates(splits, places, recipe.data.duplicate_bits)
    else:
        group.wait()
    pixels = training_pixels(recipe, splits.train, places)
    clean = load_pixels(places.data, splits.fit, recipe.input, places.cache) if recipe.training.early_stopping else None
    if group.first:
        sizes = {name: len(films) for name, films in vars(splits).items()}
        every = [film for films in vars(splits).values() for film in films]
        facts = {"digest": splits.digest, "films": sizes, "duplicates_within_parts": len(within)}
        facts["fingerprint"] = fingerprint(every, recipe.data)
        _check_unchanged(run, facts, pixels)
        run.write_json("splits.json", facts)
        facts = {"training_data_digest": pixels.digest, "device": str(group.device), "processes": group.count}
        run.write_json("environment.json", {**environment(), **facts})
        group.wait()
    training = TrainingSet(pixels.images, targets(splits.train, recipe.data), [film.folder for film in splits.train])
    return Films(training, None if clean is None else clean.plain, targets(splits.fit, recipe.data))


def _check_unchanged(run: Run, facts: Mapping[str, Any], pixels: Pixels) -> None:
    """A checkpoint goes on with the films that it has seen: others could have been dealt to the validation since.

    Raises ConfigurationError("data_changed") where splits, labels or pixels are not those of the run's first epochs.
    """
    if not (run.path / "checkpoint.pt").is_file():
        return
    before = {**(run.optional_json("splits.json") or {}), **(run.optional_json("environment.json") or {})}
    now = {**facts, "training_data_digest": pixels.digest}
    told = {"digest", "fingerprint", "training_data_digest"} & set(before)  # a run of earlier code kept less
    if any(before[name] != now[name] for name in told):
        raise ConfigurationError(
            "data_changed",
            f"the films of {run.path.name} are not those that it was begun with (added, taken out, relabelled or changed): put "
            "them back, or delete the run's folder and fit anew",
        )


def _loss(recipe: Recipe, films: TrainingSet, device: torch.device) -> Loss:
    """Weights from the labels as often as an epoch shows them; every epoch shows each label equally often, give or take one."""
    order = epoch_order(
        films.target, films.sources, recipe.training, recipe.data.task, np.random.default_rng(recipe.seed)
    )
    return build_loss(recipe.training.loss, recipe.data.task, films.target[order], device)


def _begin(run: Run, places: Places, films: TrainingSet, console: Console, group: Processes) -> State:
    """The state to go on from: the checkpoint's, or a fresh one with the starting weights of the recipe."""
    recipe = run.recipe
    network = build_network(
        recipe.network, outputs=len(recipe.data.outputs), channels=recipe.input.channels, seed=recipe.seed
    )
    resumed = (run.path / "checkpoint.pt").is_file()
    if not resumed:
        _starting_weights(network, run, places, console, group)
    network = network.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    if not resumed:
        _settle(network, recipe, films, group.device)
    network = group.synchronised(network)
    state = State(
        network,
        Average(recipe.training.average, network),
        build_optimiser(network, recipe.training),
        Arithmetic(recipe.training, group.device),
    )
    if resumed:
        restore(run, state)
        if group.first:
            write_curve(run, state)
        console.print(f"{run.path.name}: going on after epoch {state.epoch}")
    return state


def _starting_weights(network: TriageNetwork, run: Run, places: Places, console: Console, group: Processes) -> None:
    """From the recipe's file, or its self-supervised pre-training; else they stay as they were drawn."""
    if run.recipe.network.weights is not None:
        load_weights(network, run.recipe.network.weights, places.data)
    elif run.recipe.pretraining is not None:
        if not group.first:
            group.wait()  # process 0 pre-trains, the others read its file
        films = recipe_splits(run.recipe, places).train
        load_body(network, pretrained_body(run.recipe, films, places, console))
        if group.first:
            group.wait()


def _settle(network: TriageNetwork, recipe: Recipe, films: TrainingSet, device: torch.device) -> None:
    """Batch statistics of a frozen body whose weights are as they were drawn, from the first training films. In place.

    A frozen block keeps the statistics it begins with, and with those of a new network the features of a deep one shrink to nothing.
    """
    part = recipe.network
    if part.frozen and part.weights is None and recipe.pretraining is None:
        _, prepared = batches(recipe, films, 0, device)
        reestimate_statistics(network, (batch.image for batch in islice(prepared, _SETTLING)))


def _look(session: Session, state: State, films: Films, entry: dict[str, float]) -> None:
    """Validate where the recipe asks for it, and note the epoch's line. In place on `entry` and `state`."""
    recipe, group = session.recipe, session.processes
    part = recipe.training.early_stopping
    if part is not None and films.watched is not None:
        found: dict[str, float] = {}
        if group.first:
            found = validate(
                state.average.network,
                films.watched,
                films.watched_target,
                recipe.input,
                loss=session.loss,
                task=recipe.data.task,
            )
        names = ("val_auroc", "val_macro_f1", "val_loss")
        values = group.from_first([found.get(name, 0.0) for name in names])
        entry |= dict(zip(names, values, strict=True))
        weights = state.average.network.state_dict()
        state.watch.take(part, recipe.training.schedule, watched(entry, part), state.epoch, weights)
        state.stopped = state.watch.stops(part)
    state.history.append(entry)


def _reestimate(recipe: Recipe, state: State, films: TrainingSet, device: torch.device) -> None:
    """Batch statistics of the averaged weights over one more epoch's films, which no step was taken on; frozen blocks keep theirs."""
    _, prepared = batches(recipe, films, recipe.training.epochs, device)
    frozen = frozen_layers(state.average.network, recipe.network, recipe.training.epochs - 1)
    reestimate_statistics(state.average.network, (batch.image for batch in prepared), frozen)


def _finish(run: Run, state: State) -> None:
    """The result: the best epoch's weights where the fit was watched, else the average's or the last ones."""
    result = state.watch.best or state.average.network.state_dict()
    facts = {"seconds": round(state.seconds, 1), "epochs": state.epoch, "stopped_early": state.stopped}
    if state.watch.best:
        facts |= {"best_epoch": state.watch.best_epoch}
    run.write_json("fitted.json", facts)
    save_tensors(run.weights_file, {name: tensor.detach().cpu().clone() for name, tensor in result.items()})


@contextmanager
def _locked(folder: Path, group: Processes) -> Iterator[None]:
    """One fit per run folder at a time."""
    if not group.first:
        yield
        return
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError("run_busy", f"another process is fitting {folder.name}") from error
        yield


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _line(entry: dict[str, float], epochs: int) -> str:
    validated = "".join(f"  {name} {entry[name]:.4f}" for name in entry if name.startswith("val_"))
    return (
        f"epoch {int(entry['epoch'])}/{epochs}  loss {entry['loss']:.4f}{validated}  lr {entry['learning_rate']:.2e}  "
        f"{entry['images_per_s']:.1f} films/s  {entry['seconds']:.0f} s"
    )
