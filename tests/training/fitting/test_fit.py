from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from app.errors import ConfigurationError
from tests.training.phantom_data import TINY, TINY_MULTICLASS, TINY_MULTILABEL
from training.fitting import fit as fit_module
from training.fitting.fit import fit
from training.networks.network import build_network
from training.networks.weights import body_bytes, load_body
from training.places import CHECKOUT, Places
from training.recipe import Recipe, parse_recipe
from training.runs import Run

QUIET = Console(quiet=True)
WATCHED = {"metric": "auroc", "patience": 9}


def _recipe(text: str = TINY, **changes: Any) -> Recipe:
    values = {name.replace("__", "."): value for name, value in changes.items()}
    return parse_recipe(tomllib.loads(text), "test").changed(values)


def _curve(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("text", [TINY, TINY_MULTICLASS, TINY_MULTILABEL])
def test_a_recipe_of_each_task_is_fitted_to_its_end(text: str, places: Places) -> None:
    recipe = _recipe(text)
    run = fit(recipe, places, QUIET)
    assert run.complete
    curve = _curve(run)
    assert [entry["epoch"] for entry in curve] == [1, 2]
    assert [entry["size"] for entry in curve] == [32, 64]
    assert set(curve[0]) == {"epoch", "size", "loss", "learning_rate", "seconds", "images_per_s"}
    assert curve[1]["loss"] < curve[0]["loss"]
    network = run.network()
    logits, _ = network(torch.zeros(2, 1, 64, 64))
    assert logits.shape == (2, len(recipe.data.outputs))
    fresh = build_network(recipe.network, outputs=len(recipe.data.outputs), channels=1, seed=recipe.seed).state_dict()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, fresh[name])}
    assert moved == set(fresh)  # weights, biases, statistics and their counters
    assert set(run.read_json("splits.json")["films"]) >= {"train", "fit", "report", "test"}
    assert len(run.read_json("environment.json")["training_data_digest"]) == 64


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(places: Places) -> None:
    first = fit(_recipe(), places, QUIET)
    again = fit(_recipe(), replace(places, runs=places.runs / "again"), QUIET)
    other = fit(_recipe(seed=8), places, QUIET)
    assert first.weights_digest() == again.weights_digest() != other.weights_digest()
    assert first.read_json("splits.json") == other.read_json("splits.json")


def test_a_complete_run_is_left_alone(places: Places) -> None:
    run = fit(_recipe(), places, QUIET)
    before = run.weights_file.stat().st_mtime_ns
    console = Console(record=True, width=200)
    fit(_recipe(), places, console)
    assert "complete" in console.export_text()
    assert run.weights_file.stat().st_mtime_ns == before


EVERYTHING = {
    "training__early_stopping": {
        "metric": "macro_f1",
        "patience": 9,
    },  # best in epoch 1, so the rate falls after 2 and 3
    "training__schedule": {"kind": "plateau", "patience": 1, "factor": 0.3},
    "training__mixup": 0.3,
    "training__oversample_to": 40,
    "training__balance_sources": True,
    "training__stages": [{"epochs": 2, "size": 32}, {"epochs": 2, "size": 64}],
}
SWA = {
    "training__average": {"kind": "swa", "swa_start": 0.3},
    "training__schedule": {"kind": "one_cycle"},
    "training__stages": [{"epochs": 4, "size": 64}],
    "training__autocast": "bfloat16",
}
_CHILD = """
import json, os, signal, sys
from pathlib import Path
import torch
from rich.console import Console
from training.fitting import checkpoint, fit, loop
from training.places import Places
from training.recipe import Recipe

torch.set_num_threads(1)
place, at, recipe, places = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
counted = 0

def deadly(function):
    def call(*args, **kwargs):
        global counted
        counted += 1
        if counted == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

if place == "step":
    loop.set_rate = deadly(loop.set_rate)
elif place == "write":
    checkpoint.os.fsync = deadly(os.fsync)
fit.fit(Recipe.model_validate_json(recipe), Places(**{k: Path(v) for k, v in places.items()}), Console(quiet=True))
"""


def _killed(recipe: Recipe, places: Places, place: str, at: int) -> None:
    """A process of its own that fits until it is killed: before its step number `at`, or while it writes checkpoint number `at`."""
    paths = json.dumps({name: str(path) for name, path in asdict(places).items()})
    command = [sys.executable, "-c", _CHILD, place, str(at), recipe.model_dump_json(), paths]
    ended = subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "place", "at", "epochs"),
    [(EVERYTHING, "step", 25, 2), (SWA, "write", 3, 2)],
    ids=["in-an-epoch", "while-writing"],
)
def test_a_fit_that_was_killed_ends_with_the_same_weights(
    changes: dict[str, Any], place: str, at: int, epochs: int, places: Places
) -> None:
    recipe = _recipe(**changes)
    undisturbed = fit(recipe, replace(places, runs=places.runs / "undisturbed"), QUIET)
    _killed(recipe, places, place, at)
    run = Run(places.runs / recipe.run_name, recipe)
    assert not run.complete
    assert [entry["epoch"] for entry in _curve(run)] == list(range(1, epochs + 1))  # killed in the middle
    resumed = fit(recipe, places, QUIET)
    assert resumed.weights_digest() == undisturbed.weights_digest()
    timeless = [
        [{k: v for k, v in e.items() if k not in {"seconds", "images_per_s"}} for e in _curve(r)]
        for r in (resumed, undisturbed)
    ]
    assert timeless[0] == timeless[1]
    facts = resumed.read_json("fitted.json")
    assert facts | {"seconds": 0} == undisturbed.read_json("fitted.json") | {"seconds": 0}
    assert facts.get("best_epoch", 1) == 1  # what had to be remembered


def test_early_stopping_hands_over_the_best_epoch(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.6, 0.9, 0.7, 0.8, 0.95])
    seen = []

    def fixed(network: torch.nn.Module, *_: object, **__: object) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"val_auroc": next(values), "val_macro_f1": 0.5, "val_loss": 0.5}

    monkeypatch.setattr(fit_module, "validate", fixed)
    stages = [{"epochs": 5, "size": 64}]
    run = fit(
        _recipe(training__early_stopping={"metric": "auroc", "patience": 2}, training__stages=stages), places, QUIET
    )
    assert [entry["val_auroc"] for entry in _curve(run)] == [0.6, 0.9, 0.7, 0.8]
    assert run.read_json("fitted.json") | {"seconds": 0} == {
        "seconds": 0,
        "epochs": 4,
        "stopped_early": True,
        "best_epoch": 2,
    }
    weights = run.network().state_dict()
    assert all(torch.equal(value, seen[1][name]) for name, value in weights.items())
    assert not torch.equal(weights["head.weight"], seen[3]["head.weight"])


def test_the_watched_figures_are_the_averages(places: Places) -> None:
    run = fit(_recipe(training__early_stopping=WATCHED), places, QUIET)
    entry = _curve(run)[-1]
    assert 0 <= entry["val_auroc"] <= 1
    assert 0 <= entry["val_macro_f1"] <= 1
    assert entry["val_loss"] > 0


@pytest.mark.parametrize("kind", ["none", "ema", "swa"])
def test_each_average_hands_over_other_weights(kind: str, places: Places) -> None:
    stages = [{"epochs": 3, "size": 32}, {"epochs": 1, "size": 64}]
    run = fit(_recipe(training__average={"kind": kind, "swa_start": 0.5}, training__stages=stages), places, QUIET)
    saved = torch.load(run.path / "checkpoint.pt", weights_only=True)
    handed, last = run.network().state_dict(), saved["network"]
    same = torch.equal(handed["head.weight"], last["head.weight"])
    assert same == (kind == "none")
    if kind == "swa":
        assert torch.equal(handed["head.weight"], saved["average"]["head.weight"])
        assert not torch.equal(handed["body.1.running_mean"], saved["average"]["body.1.running_mean"])


def test_a_frozen_body_stays_and_is_unfrozen_in_time(places: Places) -> None:
    stages = [{"epochs": 2, "size": 64}]
    head = _recipe(network__frozen=True, training__stages=stages)
    network = build_network(head.network, outputs=1, channels=1, seed=head.seed)
    fresh, weights = network.state_dict(), {name for name, _ in network.named_parameters()}
    probe = fit(head, places, QUIET).network().state_dict()
    assert {n for n in weights if not torch.equal(probe[n], fresh[n])} == {"head.weight", "head.bias"}
    staged = _recipe(network__frozen=True, network__unfreezing=[{"epoch": 1, "blocks": 1}], training__stages=stages)
    after = fit(staged, places, QUIET).network().state_dict()
    moved = {n for n, v in after.items() if not torch.equal(v, probe[n])}
    assert {"body.8.weight", "body.9.running_mean"} <= moved
    assert not {n for n in moved if n.startswith(("body.0.", "body.1.", "body.4.", "body.5."))}


def test_a_frozen_body_keeps_its_statistics(places: Places) -> None:
    probes = [
        _recipe(network__frozen=True, training__stages=[{"epochs": epochs, "size": 64}], training__average=average)
        for epochs, average in ((1, {"kind": "none"}), (3, {"kind": "none"}), (3, {"kind": "swa", "swa_start": 0.5}))
    ]
    bodies = [fit(probe, places, QUIET).network().body.state_dict() for probe in probes]
    for body in bodies[1:]:
        assert all(torch.equal(value, bodies[0][name]) for name, value in body.items())


def test_a_frozen_deep_body_from_scratch_tells_films_apart(places: Places) -> None:
    """With the batch statistics of a new network the features of an EfficientNet-B0 are of the size 1e-15."""
    stages = [{"epochs": 1, "size": 64}]
    run = fit(
        _recipe(network__architecture="efficientnet_b0", network__frozen=True, training__stages=stages), places, QUIET
    )
    films = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = run.network().body(films).mean(dim=(2, 3))
    assert features.std(dim=0).mean() > 1e-3


def test_a_fit_does_not_go_on_with_other_films(places: Places, tmp_path: Path) -> None:
    class KilledError(Exception):
        """After the first epoch."""

    def kill(_: object) -> None:
        raise KilledError

    shutil.copytree(places.data, tmp_path / "data")
    here = replace(places, data=tmp_path / "data")
    with pytest.raises(KilledError):
        fit(_recipe(), here, QUIET, kill)
    manifest = here.data / "kermany_hires" / "manifest.csv"
    whole = manifest.read_text()
    lines = whole.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if ",train,normal," in line)
    manifest.write_text("".join(lines[:at] + lines[at + 1 :]))
    _fails("data_changed", _recipe(), here)
    manifest.write_text(whole)
    assert fit(_recipe(), here, QUIET).complete


def test_a_fit_starts_from_the_recipes_weights(places: Places, tmp_path: Path) -> None:
    part = _recipe().network
    body = build_network(part, outputs=1, channels=1, seed=99)
    (tmp_path / "body.safetensors").write_bytes(body_bytes(body))
    weights: dict[str, Any] = {"file": str(tmp_path / "body.safetensors"), "sha256": None, "drop": []}
    run = fit(_recipe(network__weights=weights, network__frozen=True), places, QUIET)
    handed = run.network().body.state_dict()
    assert all(torch.equal(handed[name], value) for name, value in body.body.state_dict().items())


def test_a_fit_starts_from_the_recipes_pretraining(places: Places) -> None:
    pretraining = {"method": "simsiam", "epochs": 1, "size": 32, "batch": 8}
    run = fit(_recipe(pretraining=pretraining, network__frozen=True), places, QUIET)
    (made,) = places.cache.glob("tiny_cnn-*.safetensors")
    wanted = build_network(run.recipe.network, outputs=1, channels=1, seed=99)
    load_body(wanted, made)
    handed = run.network().body.state_dict()
    assert all(torch.equal(handed[name], value) for name, value in wanted.body.state_dict().items())


def _fails(code: str, recipe: Recipe, places: Places) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fit(recipe, places, QUIET)
    assert caught.value.code == code


def test_a_batch_that_cannot_be_filled(places: Places) -> None:
    _fails("too_few_films", _recipe(training__batch=500), places)


def test_a_loss_that_is_no_number_stops_the_fit_and_leaves_no_weights(places: Places) -> None:
    recipe = _recipe(training__learning_rate=1e30, training__gradient_clip=None)
    _fails("diverged", recipe, places)
    assert not Run(places.runs / recipe.run_name, recipe).complete


def test_two_fits_of_one_run_at_a_time(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe()

    def second(*_: object, **__: object) -> None:
        _fails("run_busy", recipe, places)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "recipe_splits", second)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, places, QUIET)


def test_a_checkpoint_of_another_version_is_refused(places: Places) -> None:
    recipe = _recipe()
    folder = places.runs / recipe.run_name
    folder.mkdir(parents=True)
    torch.save({"epoch": 1}, folder / "checkpoint.pt")
    _fails("old_checkpoint", recipe, places)
