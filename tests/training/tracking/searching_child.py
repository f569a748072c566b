"""A process that searches: `python searching_child.py ROOT STORAGE TRIALS SECONDS`. Fits by waiting, judges by a formula."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.training.tracking.made_runs import places, recipe
from training.places import Places
from training.recipe import Recipe
from training.runs import Run, open_run
from training.tracking.search import search

SPACE = {
    "training.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "training.batch": {"kind": "int", "low": 4, "high": 16},
    "training.loss.class_weights": {"kind": "choice", "values": ["none", "balanced"]},
}


def searched(trials: int = 6, **changes: Any) -> Recipe:
    return recipe(search={"trials": trials, "space": SPACE, "pruning": False} | changes)


def judge(run: Run, where: Places, step: str) -> dict[str, Any]:
    """Best at a learning rate of 0.01."""
    assert step == "hard"
    return {"selection": 1 / (1 + abs(run.recipe.training.learning_rate - 0.01))}


def note(run: Run, where: Places, tags: Mapping[str, str]) -> None:
    """Instead of MLflow."""


class SlowFit:
    """Leaves a mark in the run's folder when it begins, and waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, chosen: Recipe, where: Places, console: Console) -> Run:
        run = open_run(chosen, where)
        with (run.path / "begun").open("a") as stream:
            stream.write("x")
        time.sleep(self.seconds)
        run.weights_file.write_bytes(b"fitted")
        return run


if __name__ == "__main__":
    root, storage, trials, seconds = sys.argv[1:]
    search(
        searched(int(trials)),
        places(Path(root)),
        Console(stderr=True),
        storage=storage,
        fit=SlowFit(float(seconds)),
        judge=judge,
        note=note,
        heartbeat_s=1,
    )
