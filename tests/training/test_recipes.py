"""Every recipe that ships, for a step on phantoms: it fits, is judged, and becomes a bundle that tests itself."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from app.bundle.store import BundleStore
from app.errors import BundleError
from app.inference.engine import OnnxRuntimeEngine
from app.selftest import self_test
from tests.training.phantom_data import NIH_FINDINGS, write_data, write_held_out
from training.data.splits import recipe_splits
from training.fitting.fit import fit
from training.judging.evaluate import evaluate
from training.places import Places
from training.publishing.export import export
from training.publishing.promotion import promote
from training.recipe import RECIPES, Recipe, load_recipe

NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))
DESIGNS = {"S0", "S1", "S2", "S3", "S4"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in the folders of the real data; every NIH label stands on some of them."""
    root = write_data(tmp_path_factory.mktemp("recipes") / "data", patients=24)
    write_held_out(root)
    path = root / "nih_chestxray14" / "labels14.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for n, row in enumerate(rows):
        if row["no_finding"] == "0":
            row |= {name: "1" for k, name in enumerate(NIH_FINDINGS) if (n // 2 + k) % 3 == 0}
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def small(name: str) -> Recipe:
    """The recipe as it is, but one epoch of few films at 64 px."""
    recipe = load_recipe(name)
    values: dict[str, Any] = {
        "input.size": 64,
        "training.stages": [{"epochs": 1, "size": 64}],
        "training.batch": 16 if recipe.data.task != "multilabel" else 8,
        "training.oversample_to": 0,
        "data.cached_copies": 1,
        "data.duplicate_bits": 8,
        "decision.bootstraps": 20,
        "evaluation.severities": [1],
        "evaluation.explanations": 0,
        "policy": "demonstration",
    }
    if name == "threeclass-resnet18":
        values["training.learning_rate"] = 3e-3  # else one step tells too few phantoms apart for goldens
    return recipe.changed(values)


def test_every_source_design_has_a_recipe() -> None:
    assert {load_recipe(name).design for name in NAMES} - {None} == DESIGNS


def test_recipes_have_titles_and_names_of_their_files() -> None:
    for name in NAMES:
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.title


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_for_one_step_on_phantoms(name: str, data: Path, tmp_path: Path) -> None:
    places = Places(data, tmp_path / "cache", tmp_path / "runs", tmp_path / "bundles", tmp_path / "ledger.csv")
    recipe, console = small(name), Console(quiet=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = fit(recipe, places, console)
        figures = evaluate(run, places, "hard")
        evaluate(run, places, "report")
        assert figures["n"] == len((splits := recipe_splits(recipe, places)).fit) + len(splits.report)
        promote(run)
        if recipe.network.architecture == "efficientnet_b0" and not recipe.network.frozen:
            # After one step its batch statistics are still those it began with, and it answers every film alike.
            with pytest.raises(BundleError, match="threshold"):
                export(run, places, "1.0.0", accept_failed=run.path.name)
            return
        done = export(run, places, "1.0.0", accept_failed=run.path.name)
    finally:
        torch.set_num_threads(threads)
    bundle = BundleStore(places.bundles).verify(done.ref)
    self_test(bundle, OnnxRuntimeEngine(bundle.network))
    assert bundle.manifest.task == recipe.data.task
    assert bundle.manifest.classes == recipe.data.classes
    assert bundle.manifest.network.architecture == recipe.network.architecture
