"""A run in MLflow: everything once, however often it is tracked."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.training.tracking.made_runs import judged_run, places, recipe
from training.runs import Run
from training.tracking.track import _artefacts, _client, _figures, _quiet, flattened, track


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root for the module: making MLflow's tables takes seconds."""
    return tmp_path_factory.mktemp("tracked")


def client(root: Path) -> Any:
    return _client(f"sqlite:///{root / 'runs' / 'mlflow.db'}")


def entries(root: Path, name: str) -> list[Any]:
    with _quiet():
        ids = [e.experiment_id for e in client(root).search_experiments()]
        return list(client(root).search_runs(ids, f"tags.`cxr.run` = '{name}'"))


def finished(root: Path, **changes: object) -> Run:
    run = judged_run(places(root), recipe(**changes), 1.0)
    figure = {"value": 0.97, "ci": [0.95, 0.99]}
    run.write_json(
        "figures-report.json", {"clean": {"n": 60, "macro": {"auroc": figure, "nll": {"value": 0.1, "ci": None}}}}
    )
    run.write_json("promotion.json", {"label": "passed", "passed": True})
    (run.path / "report.html").write_text("<p>report</p>")
    (run.path / "checks" / "worklists").mkdir(parents=True)
    (run.path / "checks" / "worklists" / "missed.csv").write_text("path\n")
    return run


def test_what_is_kept(store: Path) -> None:
    run = finished(store, name="kept")
    run_id = track(run, places(store), {"study": "s"})
    [found] = entries(store, run.path.name)
    assert found.info.run_id == run_id
    assert found.info.status == "FINISHED"
    params, metrics, tags = found.data.params, found.data.metrics, found.data.tags
    assert params["training.stages.1.size"] == "64"
    assert params["input.normalisation.kind"] == "per_image"
    assert metrics["epoch/loss"] == pytest.approx(1 / 3)
    assert metrics["hard/selection"] == run.read_json("figures-hard.json")["selection"]
    assert [metrics[f"report/clean/macro/auroc{end}"] for end in ("", "/low", "/high")] == [0.97, 0.95, 0.99]
    assert metrics["report/clean/macro/nll"] == 0.1
    assert "report/clean/macro/nll/low" not in metrics
    assert tags["recipe_digest"] == run.recipe.digest
    assert tags["weights_digest"] == run.weights_digest()
    assert tags["mlflow.source.git.commit"] == "abc123"
    assert (tags["promotion"], tags["study"], tags["kind"]) == ("passed", "s", "network")
    steps = [(m.step, m.value) for m in client(store).get_metric_history(run_id, "epoch/loss")]
    assert steps == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_artefacts_lie_beside_the_runs_whatever_local_store_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """report.html and checks/ show films: MLflow's own place for them would be the working directory, maybe a checkout."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    track(finished(tmp_path / "root", name="elsewhere"), places(tmp_path / "root"))
    assert list(here.iterdir()) == []
    kept = places(tmp_path / "root").runs / "mlflow-artefacts"
    assert [path.name for path in kept.rglob("report.html")] == ["report.html"]


def test_artefacts_lie_beside_the_store(store: Path) -> None:
    run = finished(store, name="artefacts")
    run_id = track(run, places(store))
    kept = store / "runs" / "mlflow-artefacts" / run_id / "artifacts"
    assert (kept / "report.html").read_text() == "<p>report</p>"
    assert (kept / "checks" / "worklists" / "missed.csv").is_file()
    assert {"recipe.json", "figures-hard.json", "metrics.jsonl"} <= {p.name for p in kept.iterdir()}
    assert not list(kept.rglob("*.pt"))
    assert not list(kept.rglob("*.npz"))  # patients and paths


def test_tracking_twice_changes_nothing(store: Path) -> None:
    run = finished(store, name="twice")
    run_id = track(run, places(store))
    os.utime(run.path / "figures-hard.json", (time.time() + 60, time.time() + 60))
    assert track(run, places(store)) == run_id
    assert len(entries(store, run.path.name)) == 1
    for name, points in (("epoch/loss", 3), ("hard/selection", 1), ("report/clean/macro/auroc", 1)):
        assert len(client(store).get_metric_history(run_id, name)) == points


def test_a_step_taken_again_brings_the_entry_up_to_date(store: Path) -> None:
    run = finished(store, name="again")
    track(run, places(store))
    run.write_json("figures-report.json", {"clean": {"macro": {"auroc": {"value": 0.5, "ci": None}}}})
    later = time.time() + 60
    os.utime(run.path / "figures-report.json", (later, later))
    run.write_json("promotion.json", {"label": "research-only", "passed": False})
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"epoch": 4, "size": 64, "loss": 0.2}) + "\n")
    run_id = track(run, places(store))
    [found] = entries(store, run.path.name)
    assert found.data.metrics["report/clean/macro/auroc"] == 0.5
    assert found.data.metrics["epoch/loss"] == 0.2
    assert found.data.tags["promotion"] == "research-only"
    assert [m.step for m in client(store).get_metric_history(run_id, "epoch/loss")] == [1, 2, 3, 4]


def test_the_environment_names_another_store(
    store: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "runs").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other / 'runs' / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "hospital")
    monkeypatch.chdir(other)
    run = judged_run(places(store), recipe(name="elsewhere"), 1.0)
    track(run, places(store))
    assert len(entries(other, run.path.name)) == 1
    assert client(other).get_experiment_by_name("hospital") is not None
    if (store / "runs" / "mlflow.db").is_file():
        assert entries(store, run.path.name) == []


def test_films_do_not_go_to_a_server(tmp_path: Path) -> None:
    run = finished(tmp_path)
    assert {p.name for p in _artefacts(run, local=True)} - {p.name for p in _artefacts(run, local=False)} == {
        "report.html",
        "checks",
    }


def test_telemetry_is_off(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    track(judged_run(places(store), recipe(name="telemetry"), 1.0), places(store))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_names_of_figures(tmp_path: Path) -> None:
    run = judged_run(places(tmp_path), recipe(), 1.0)
    run.write_json(
        "figures-external.json",
        {"a": {"confusion": {"no finding|x": {"tp": 3}}, "flag": True, "gone": None, "list": [1]}},
    )
    found = {name: value for name, value, _ in _figures(run) if name.startswith("external")}
    assert found == {"external/a/confusion/no finding_x/tp": 3.0}


def test_flattened() -> None:
    assert dict(flattened({"a": {"b": [1, {"c": 2}]}, "d": None})) == {"a.b.0": 1, "a.b.1.c": 2, "d": None}
