"""All checks of a run, end to end, on phantoms."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from app.errors import ConfigurationError
from tests.training.judging.made import many, scored
from tests.training.phantom_data import TINY, TINY_MULTICLASS, write_data
from training.data.splits import recipe_splits
from training.judging.checks import run_checks
from training.judging.evaluate import evaluate
from training.judging.sampling import FEWEST, Limits, spread
from training.judging.worklists import LISTS
from training.networks.network import build_network
from training.places import Places
from training.recipe import parse_recipe
from training.runs import Run, open_run

LIMITS = Limits(suite=12, tta=12, edges=12, train=60, gallery=1, bootstraps=5)
QUIET = Console(quiet=True)


def _judged(text: str, root: Path) -> tuple[Run, Places]:
    """A run with fresh weights after the hard validation."""
    recipe = parse_recipe(tomllib.loads(text), "made")
    places = Places(
        data=write_data(root / "data"), cache=root / "cache", runs=root / "runs", ledger=root / "ledger.csv"
    )
    run = open_run(recipe, places)
    outputs, channels = len(recipe.data.outputs), recipe.input.channels
    network = build_network(recipe.network, outputs=outputs, channels=channels, seed=3)
    torch.save(network.state_dict(), run.weights_file)
    evaluate(run, places, "hard")
    return run, places


def test_binary_checks_open_no_test_film(tmp_path: Path) -> None:
    run, places = _judged(TINY, tmp_path)
    tests = recipe_splits(run.recipe, places).test
    apart = tmp_path / "apart"
    for film in tests:  # a check that opened one would fail
        (apart / film.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(places.data / film.path, apart / film.path)
    figures = run_checks(run, places, QUIET, LIMITS)
    stored = json.loads((run.path / "figures-checks.json").read_text())
    assert stored == json.loads(json.dumps(figures))
    assert figures["weights_digest"] == run.weights_digest()
    assert set(figures["worklists"]) == {"report"}
    assert set(figures["explanations"]["classes"]) == {"normal", "pneumonia"}
    assert {"border_mass", "randomisation"} <= set(figures["explanations"])
    assert figures["slices"]["source"]["kermany_224"]["n"] > 0
    assert set(figures["suite"]["by_severity"]) == {"1", "2", "3", "4", "5"}
    for name in LISTS:
        assert (run.path / "checks" / f"{name}.csv").is_file()
    assert "<figure>" in (run.path / "checks" / "gallery.html").read_text()
    shortcuts = json.loads((run.path / "figures-shortcuts.json").read_text())
    assert [line["name"] for line in shortcuts["verdict"]] == [
        "source, pneumonia",
        "marks, pneumonia",
        "edge read, pneumonia",
    ]
    assert all({"name", "measured", "limit", "wanted", "passed", "why"} == set(line) for line in shortcuts["verdict"])
    assert set(shortcuts["baseline"]) == {"name", "clean"}
    assert shortcuts["baseline"]["clean"]["n"] == figures["n"]
    assert 0 <= shortcuts["baseline"]["clean"]["matched"]["screening"]["baseline"]["pneumonia"]["value"] <= 1

    shutil.copytree(apart, places.data, dirs_exist_ok=True)
    evaluate(run, places, "report")
    evaluate(run, places, "test")
    again = run_checks(run, places, QUIET, LIMITS)
    assert set(again["worklists"]["test"]) == set(LISTS)
    assert (run.path / "checks" / "test" / "worklists.json").is_file()
    baseline = json.loads((run.path / "figures-shortcuts.json").read_text())["baseline"]
    assert baseline["test"]["n"] == len(tests)
    assert again["suite"] == figures["suite"]  # seeded


def test_a_class_of_its_own_source_is_named(tmp_path: Path) -> None:
    """Tuberculosis comes from tbx11k alone, as in the real data."""
    run, places = _judged(TINY_MULTICLASS, tmp_path)
    figures = run_checks(run, places, QUIET, LIMITS)
    shortcuts: dict[str, Any] = json.loads((run.path / "figures-shortcuts.json").read_text())
    by_class = shortcuts["sources"]["by_class"]
    assert by_class["tuberculosis"]["told"] == 1.0
    assert by_class["tuberculosis"]["exclusive"] == 1.0
    assert by_class["pneumonia"]["exclusive"] == 0.0
    failed = [line["name"] for line in shortcuts["verdict"] if not line["passed"]]
    assert "source, tuberculosis" in failed
    assert not {"source, pneumonia", "source, normal"} & set(failed)
    assert set(shortcuts["sources"]["probes"]) == {"32 x 32 thumbnail", "sharpness", "the network's pooled features"}
    assert set(figures["explanations"]["classes"]) == {"normal", "pneumonia", "tuberculosis"}


def test_checks_come_after_the_hard_validation(tmp_path: Path) -> None:
    run, places = _judged(TINY, tmp_path)
    (run.path / "decision.json").unlink()
    with pytest.raises(ConfigurationError) as fault:
        run_checks(run, places, QUIET, LIMITS)
    assert fault.value.code == "step_missing"


def test_a_sample_keeps_proportions_and_rare_classes() -> None:
    y = [1] * 30 + [0] * 970
    films = scored(np.zeros(1000), y)
    rows = spread(films, 200, 0)
    assert len(rows) == FEWEST + 194
    assert sum(y[i] for i in rows) == FEWEST
    np.testing.assert_array_equal(rows, spread(films, 200, 0))
    assert not np.array_equal(rows, spread(films, 200, 1))
    np.testing.assert_array_equal(spread(films, 1000, 0), np.arange(1000))
    labels = np.zeros((1000, 2))
    labels[:5, 1] = 1
    kept = spread(many("multilabel", ("a", "b"), np.zeros((1000, 2)), labels), 50, 0)
    assert set(range(5)) <= set(kept.tolist())
    assert len(kept) <= 55
