"""What changes during a fit, and the one file that holds all of it between epochs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from app.errors import ConfigurationError
from training.fitting.average import Average
from training.fitting.optimise import Arithmetic
from training.fitting.stopping import Watch
from training.networks.network import TriageNetwork
from training.runs import Run, write_atomically

_FORMAT = 2  # raise when the content changes: an older checkpoint is then refused, not misread


@dataclass
class State:
    """`epoch`: epochs done; `history`: one entry per epoch; `seconds`: spent so far. Chance has no state: see `loop`."""

    network: TriageNetwork
    average: Average
    optimiser: torch.optim.Optimizer
    arithmetic: Arithmetic
    watch: Watch = field(default_factory=Watch)
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False


def save(run: Run, state: State) -> None:
    """The checkpoint and the curve, each whole or not at all."""
    content = {
        "format": _FORMAT,
        "network": state.network.state_dict(),
        "average": None if state.average.part.kind == "none" else state.average.network.state_dict(),
        "average_epochs": state.average.epochs,
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.arithmetic.scaler.state_dict(),
        "watch": state.watch.saved(),
        "epoch": state.epoch,
        "history": state.history,
        "seconds": state.seconds,
        "stopped": state.stopped,
    }
    save_tensors(run.path / "checkpoint.pt", content)
    write_curve(run, state)


def write_curve(run: Run, state: State) -> None:
    """metrics.jsonl: what the checkpoint knows, so that the two never tell different stories."""
    write_atomically(run.path / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in state.history).encode())


def restore(run: Run, state: State) -> None:
    """Fill a fresh state from the run's checkpoint, in place. Raises ConfigurationError("old_checkpoint") for another format."""
    path = run.path / "checkpoint.pt"
    saved: dict[str, Any] = torch.load(path, weights_only=True, map_location=state.arithmetic.device)
    if saved.get("format") != _FORMAT:
        raise ConfigurationError(
            "old_checkpoint", f"{path} was written by another version: delete {run.path.name} and fit anew"
        )
    state.network.load_state_dict(saved["network"])
    if saved["average"] is not None:
        state.average.network.load_state_dict(saved["average"])
    state.average.epochs = saved["average_epochs"]
    state.optimiser.load_state_dict(saved["optimiser"])
    state.arithmetic.scaler.load_state_dict(saved["scaler"])
    state.watch = Watch(**saved["watch"])
    state.watch.best = {name: tensor.cpu() for name, tensor in state.watch.best.items()}
    state.epoch, state.history, state.seconds = saved["epoch"], saved["history"], saved["seconds"]
    state.stopped = saved["stopped"]


def save_tensors(path: Path, content: Any) -> None:
    """torch.save, on the disk before the name changes."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
