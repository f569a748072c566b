from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from app.errors import ConfigurationError
from tests.training.phantom_data import TINY, TINY_MULTILABEL
from training.fitting.distributed import Processes
from training.fitting.fit import fit
from training.places import CHECKOUT, Places
from training.recipe import Recipe, parse_recipe
from training.runs import Run

# What `torchrun` starts: the fit itself, unchanged, and a note of what each process holds at the end.
_CHILD = """
import json, sys
from pathlib import Path
import torch
from rich.console import Console
from training.fitting import fit, loop
from training.places import Places
from training.recipe import Recipe
from training.runs import state_digest

torch.set_num_threads(1)
places = Places(**{k: Path(v) for k, v in json.loads(sys.argv[1]).items()})
for number, text in enumerate(json.loads(sys.argv[2])):
    held = []
    run_epoch = loop.run_epoch

    def noting(session, state, progress):
        entry = run_epoch(session, state, progress)
        state_of = {n: p.detach() for n, p in state.network.named_parameters()}
        held.append((session.processes.rank, state_digest(state_of), entry["loss"]))
        return entry

    fit.run_epoch = noting
    fit.fit(Recipe.model_validate_json(text), places, Console(quiet=True))
    Path(sys.argv[3], f"{number}-{held[0][0]}.json").write_text(json.dumps(held))
"""


def _recipe(text: str, **changes: Any) -> Recipe:
    values = {name.replace("__", "."): value for name, value in changes.items()}
    return parse_recipe(tomllib.loads(text), "test").changed(values)


def _two_processes(recipes: list[Recipe], places: Places, notes: Path) -> list[list[Any]]:
    """For each recipe: what process 0 and process 1 noted after each epoch."""
    (notes / "child.py").write_text(_CHILD)
    paths = json.dumps({name: str(path) for name, path in asdict(places).items()})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        *launcher,
        str(notes / "child.py"),
        paths,
        json.dumps([r.model_dump_json() for r in recipes]),
        str(notes),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stderr=subprocess.PIPE, start_new_session=True
    ) as started:
        try:
            _, told = started.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            started.terminate()  # torchrun ends its children
            raise
    assert started.returncode == 0, told.decode()[-4000:]
    return [[json.loads((notes / f"{n}-{rank}.json").read_text()) for rank in (0, 1)] for n in range(len(recipes))]


def _distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest difference of any weight; batch statistics aside."""
    names = [n for n in first if "running" not in n and "tracked" not in n]
    return max(float((first[n].double() - second[n].double()).abs().max()) for n in names)


@pytest.mark.slow
def test_two_processes_fit_as_one_does(places: Places, tmp_path: Path) -> None:
    """Same global batches, same changes of the films. What differs: batch statistics and dropout are each process's own."""
    free = _recipe(TINY, training__early_stopping={"metric": "auroc", "patience": 5})
    # with a frozen body there is no batch statistic, without dropout no chance: only the order of sums is left; labels with gaps
    tied = _recipe(TINY_MULTILABEL, network__frozen=True, network__head={"kind": "linear", "dropout": [0.0]})
    together = Places(**asdict(places) | {"runs": places.runs / "two"})
    notes = _two_processes([free, tied], together, tmp_path)
    for recipe, (zero, one), tolerance in zip((free, tied), notes, (0.05, 1e-7), strict=True):
        assert [epoch[1:] for epoch in zero] == [epoch[1:] for epoch in one]  # weights and losses are the same in both
        assert [epoch[0] for epoch in (zero[0], one[0])] == [0, 1]
        alone = fit(recipe, places, Console(quiet=True))
        shared = Run(together.runs / recipe.run_name, recipe)
        fresh = _recipe(TINY, seed=12345)
        far = _distance(alone.network().state_dict(), _fresh(recipe, fresh.seed))
        near = _distance(alone.network().state_dict(), shared.network().state_dict())
        assert near <= tolerance
        assert near < far / 4
        curves = [
            [json.loads(line)["loss"] for line in (r.path / "metrics.jsonl").read_text().splitlines()]
            for r in (alone, shared)
        ]
        assert curves[0] == pytest.approx(curves[1], rel=0.1 if recipe is free else 1e-5)
        assert shared.read_json("environment.json")["processes"] == 2


def _fresh(recipe: Recipe, seed: int) -> dict[str, torch.Tensor]:
    from training.networks.network import build_network

    return build_network(recipe.network, outputs=len(recipe.data.outputs), channels=1, seed=seed).state_dict()


def test_rows_of_a_batch() -> None:
    device = torch.device("cpu")
    assert [Processes(rank, 4, device).rows(8) for rank in range(4)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
        slice(6, 8),
    ]
    with pytest.raises(ConfigurationError, match="3 processes") as caught:
        Processes(0, 3, device).rows(8)
    assert caught.value.code == "batch_not_shared"


def test_one_process_waits_for_nobody() -> None:
    alone = Processes(0, 1, torch.device("cpu"))
    network = torch.nn.Linear(1, 1)
    alone.wait()
    alone.check_same(network)
    assert alone.wrap(network) is network
    assert alone.from_first([1.0]) == [1.0]
    assert alone.total(2.0) == 2.0
