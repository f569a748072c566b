"""A process that pre-trains on phantoms and is killed by itself in the middle of the second epoch: `python -m ... DATA CACHE`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from tests.training.fitting.test_pretrain import pretraining_recipe
from training.data.splits import recipe_splits
from training.fitting import pretrain
from training.places import Places
from training.recipe import Recipe


def main() -> None:
    torch.set_num_threads(1)
    places = Places(data=Path(sys.argv[1]), cache=Path(sys.argv[2]))
    recipe = pretraining_recipe()
    own_step = pretrain._step

    def step(recipe: Recipe, state: pretrain.State, views: tuple[Tensor, ...]) -> float:
        if state.epoch == 1 and state.optimiser.state_dict()["state"][0]["step"] % 2 == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return own_step(recipe, state, views)

    pretrain._step = step
    pretrain.pretrained_body(recipe, recipe_splits(recipe, places).train, places, Console())


if __name__ == "__main__":
    main()
