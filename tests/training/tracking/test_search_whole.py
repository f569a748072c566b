"""A study whose trials are fitted, judged and tracked for real, on phantoms."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from tests.training.phantom_data import TINY, write_data
from training.fitting.fit import fit
from training.places import Places
from training.recipe import load_recipe, parse_recipe
from training.runs import find_run
from training.tracking.leaderboard import leaderboard
from training.tracking.search import search
from training.tracking.track import _client, _quiet


@pytest.mark.slow
def test_a_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = Places(
        write_data(tmp_path / "data"), tmp_path / "c", tmp_path / "runs", tmp_path / "b", tmp_path / "l.csv"
    )
    space = {"training.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True}}
    recipe = parse_recipe(tomllib.loads(TINY) | {"search": {"trials": 2, "space": space}}, "tiny")
    best = search(recipe, places, Console(file=io.StringIO()))
    runs = Places(places.data, places.cache, best.parent / "runs", places.bundles, places.ledger)
    chosen = load_recipe(best)
    said = io.StringIO()
    run = fit(chosen, runs, Console(file=said))  # what `training --runs RUNS fit best.toml` does
    assert "nothing to do" in said.getvalue()
    figures = [find_run(p.name, runs).read_json("figures-hard.json")["selection"] for p in runs.runs.glob("tiny-*")]
    assert run.read_json("figures-hard.json")["selection"] == max(figures)
    assert len(figures) == 2
    assert leaderboard(places, bootstraps=20).groups == ()  # trials stay with their study
    assert [len(group.lines) for group in leaderboard(runs, bootstraps=20).groups] == [2]
    with _quiet():
        client = _client(f"sqlite:///{places.runs / 'mlflow.db'}")
        [experiment] = [e for e in client.search_experiments() if e.name == "cxr-triage-binary"]
        tracked = client.search_runs([experiment.experiment_id])
    assert {r.data.tags["study"] for r in tracked} == {best.parent.name.removeprefix("study-")}
    assert len(tracked) == 2
