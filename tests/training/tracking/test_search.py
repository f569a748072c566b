"""A study: seeded, resumable, shared, pruned, and what it leaves."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.exceptions import MlflowException
from rich.console import Console
from sqlalchemy.exc import IntegrityError

from app.errors import ConfigurationError
from tests.training.tracking import searching_child
from tests.training.tracking.made_runs import places, recipe
from tests.training.tracking.searching_child import SlowFit, judge, note, searched
from training.places import Places
from training.recipe import Recipe, load_recipe
from training.runs import Run, open_run
from training.tracking import search as module
from training.tracking.search import search, study_name
from training.tracking.study_page import importances

ROOT = Path(__file__).resolve().parents[3]
QUIET = Console(file=io.StringIO())


def store(root: Path) -> str:
    return f"sqlite:///{root / 'studies.db'}"


def trials_of(root: Path, chosen: Recipe, url: str | None = None) -> list[optuna.trial.FrozenTrial]:
    assert chosen.search is not None
    study = optuna.load_study(
        study_name=study_name(chosen, chosen.search), storage=url or f"sqlite:///{root / 'runs' / 'studies.db'}"
    )
    return study.get_trials()


def run_study(root: Path, chosen: Recipe, **options: Any) -> Path:
    given: dict[str, Any] = {"fit": SlowFit(0), "judge": judge, "note": note, "heartbeat_s": 1} | options
    return search(chosen, places(root), QUIET, **given)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    run_study(root, searched())
    return root


def test_every_trial_is_a_judged_run_and_the_best_is_a_recipe(undisturbed: Path) -> None:
    found = trials_of(undisturbed, searched())
    assert [t.state.name for t in found] == ["COMPLETE"] * 6
    assert len({str(t.params) for t in found}) == 6
    [folder] = (undisturbed / "runs").glob("study-tiny-*")
    assert {p.name for p in (folder / "runs").iterdir()} == {t.user_attrs["run"] for t in found}
    best = max(found, key=lambda t: t.values[0])
    chosen = load_recipe(folder / "best.toml")
    assert chosen.run_name == best.user_attrs["run"]
    assert chosen.training.learning_rate == best.params["training.learning_rate"]
    assert chosen.search is None
    assert chosen.digest == recipe().changed(best.params).digest


def test_the_outcome_says_what_was_tried(undisturbed: Path) -> None:
    [folder] = (undisturbed / "runs").glob("study-tiny-*")
    page = (folder / "index.html").read_text()
    assert page.count("<img") == 3
    assert page.count("class=best") == 1
    content = json.loads((folder / "trials.json").read_text())
    assert len(content["trials"]) == 6
    assert set(content["importances"]) == set(searching_child.SPACE)
    assert sum(content["importances"].values()) == pytest.approx(1)
    assert max(content["importances"], key=content["importances"].get) == "training.learning_rate"


def test_an_interrupted_study_goes_on_as_it_would_have(undisturbed: Path, tmp_path: Path) -> None:
    run_study(tmp_path, searched(), trials=3)
    run_study(tmp_path, searched())
    assert [t.params for t in trials_of(tmp_path, searched())] == [t.params for t in trials_of(undisturbed, searched())]


def test_a_finished_study_fits_nothing(undisturbed: Path) -> None:
    def fit(chosen: Recipe, where: Places, console: Console) -> Run:
        raise AssertionError

    run_study(undisturbed, searched(), fit=fit)
    assert len(trials_of(undisturbed, searched())) == 6


def test_another_seed_draws_other_values(undisturbed: Path, tmp_path: Path) -> None:
    other = searched().changed({"seed": 8})
    run_study(tmp_path, other, trials=1)
    [trial] = trials_of(tmp_path, other)
    assert trial.params != trials_of(undisturbed, searched())[0].params


def child(root: Path, url: str, trials: int, seconds: float) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.training.tracking.searching_child",
        str(root),
        url,
        str(trials),
        str(seconds),
    ]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


@pytest.mark.slow
def test_two_machines_share_one_storage(tmp_path: Path) -> None:
    """Two processes with folders of their own and one store: together as many trials as asked for, none drawn twice."""
    url = store(tmp_path)
    both = [child(tmp_path / name, url, 8, 0.6) for name in ("a", "b")]
    for process in both:
        finish(process)
    found = trials_of(tmp_path, searched(8), url)
    complete = [t for t in found if t.state.name == "COMPLETE"]
    assert len(complete) == 8
    assert len({t.user_attrs["process"] for t in complete}) == 2
    assert len({str(t.params) for t in complete}) == 8
    folders = [{p.name for p in (tmp_path / n).glob("runs/study-*/runs/*")} for n in ("a", "b")]
    assert len(folders[0]) + len(folders[1]) == 8
    best = [next((tmp_path / n).glob("runs/study-*/best.toml")).read_text() for n in ("a", "b")]
    assert best[0] == best[1]


@pytest.mark.slow
def test_a_killed_trial_is_taken_up_again_with_its_values(tmp_path: Path) -> None:
    url = store(tmp_path)
    killed = child(tmp_path, url, 3, 60)
    wait_for(lambda: any((tmp_path / "runs").glob("study-*/runs/*/begun")))
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    run_study(tmp_path, searched(3), storage=url)
    found = trials_of(tmp_path, searched(3), url)
    failed, again = found[0], next(t for t in found if t.system_attrs.get("failed_trial") == 0)
    assert [t.state.name for t in found] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert again.params == failed.params
    [run] = (tmp_path / "runs").glob(f"study-*/runs/{again.user_attrs['run']}")
    assert (run / "begun").read_text() == "xx"  # the same folder: a real fit goes on from its checkpoint


def wait_for(found: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_leaves_a_trial_that_goes_on_at_once(tmp_path: Path) -> None:
    def fit(chosen: Recipe, where: Places, console: Console) -> Run:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path, searched(2), fit=fit)
    run_study(tmp_path, searched(2))
    found = trials_of(tmp_path, searched(2))
    assert [t.state.name for t in found] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert found[1].params == found[0].params != found[2].params


def test_the_last_trial_is_not_given_twice(tmp_path: Path) -> None:
    """Another process took the only trial between our count and our question: ours goes back without a fit."""
    chosen = searched(1)
    begun: list[Recipe] = []

    def fit(chosen: Recipe, where: Places, console: Console) -> Run:
        begun.append(chosen)
        return open_run(chosen, where)

    assert chosen.search is not None
    task = module._Search(chosen, chosen.search, places(tmp_path), QUIET, 1, fit, judge, note)
    with module._stable_api():
        study = module._open_study(task, store(tmp_path), 60)
        optuna.load_study(study_name=study.study_name, storage=store(tmp_path)).ask()
        given_back = module._one_trial(task, study)
    assert given_back.state.name == "FAIL"
    assert begun == []
    assert "failure" not in given_back.user_attrs


def test_a_process_that_died_before_its_first_heartbeat_is_not_waited_for(tmp_path: Path) -> None:
    chosen = searched(1)
    assert chosen.search is not None
    task = module._Search(chosen, chosen.search, places(tmp_path), QUIET, 1, SlowFit(0), judge, note)
    with module._stable_api():
        name = module._open_study(task, store(tmp_path), 1).study_name
    optuna.load_study(study_name=name, storage=store(tmp_path)).ask()
    run_study(tmp_path, chosen, storage=store(tmp_path))
    assert [t.state.name for t in trials_of(tmp_path, chosen, store(tmp_path))] == ["FAIL", "COMPLETE"]


def test_trials_behind_the_median_are_pruned(tmp_path: Path) -> None:
    """Five trials set the median; of those after them, what is below it at its second epoch ends there."""
    epochs: dict[str, int] = {}

    def fit(
        chosen: Recipe,
        where: Places,
        console: Console,
        *,
        on_epoch: Callable[[Mapping[str, float]], None] = lambda entry: None,
    ) -> Run:
        run = open_run(chosen, where)
        for epoch in (1, 2, 3):
            epochs[run.path.name] = epoch
            on_epoch({"epoch": epoch, "val_auroc": judge(run, where, "hard")["selection"], "val_loss": 9.0})
        return run

    chosen = searched(12, pruning=True).changed({"training.early_stopping": {"metric": "auroc"}})
    run_study(tmp_path, chosen, fit=fit)
    found = trials_of(tmp_path, chosen)
    pruned = [t for t in found if t.state.name == "PRUNED"]
    assert len(found) == 12
    assert pruned
    assert all(t.number >= 5 and epochs[t.user_attrs["run"]] < 3 for t in pruned)
    first = sorted(t.values[0] for t in found[:5])
    assert all(max(t.intermediate_values.values()) < first[-1] for t in pruned)
    assert len(found[0].intermediate_values) == 3


def test_without_a_validation_nothing_is_pruned_and_it_is_said(tmp_path: Path) -> None:
    said = io.StringIO()
    chosen = searched(1, pruning=True)
    search(chosen, places(tmp_path), Console(file=said), fit=SlowFit(0), judge=judge, note=note)
    assert "no trial is pruned" in said.getvalue()


def test_a_trial_that_fails_says_why_and_the_study_goes_on(tmp_path: Path) -> None:
    begun: list[Recipe] = []

    def fit(chosen: Recipe, where: Places, console: Console) -> Run:
        begun.append(chosen)
        if len(begun) in {1, 3}:
            raise ConfigurationError("diverged", "the loss is no longer a number")
        return open_run(chosen, where)

    run_study(tmp_path, searched(3), fit=fit)
    found = trials_of(tmp_path, searched(3))
    failed = [t for t in found if t.state.name == "FAIL"]
    assert sum(t.state.name == "COMPLETE" for t in found) == 3
    assert len(failed) == 2
    assert all("no longer a number" in t.user_attrs["failure"] for t in failed)
    assert "no longer a number" in next((tmp_path / "runs").glob("study-*/index.html")).read_text()


@pytest.mark.parametrize(
    "away",
    [OSError("no route to host"), MlflowException("[500] the tracking server is away"), ValueError("[/x] markup")],
)
def test_a_tracking_store_that_is_away_is_said_and_stops_nothing(tmp_path: Path, away: Exception) -> None:
    def note(run: Run, where: Places, tags: Mapping[str, str]) -> None:
        raise away

    said = io.StringIO()
    best = search(searched(2), places(tmp_path), Console(file=said, width=200), fit=SlowFit(0), judge=judge, note=note)
    assert best.is_file()
    assert [t.state.name for t in trials_of(tmp_path, searched(2))] == ["COMPLETE", "COMPLETE"]
    assert said.getvalue().count(f"not tracked in MLflow: {away}") == 2


def test_a_study_that_only_fails_ends(tmp_path: Path) -> None:
    def fit(chosen: Recipe, where: Places, console: Console) -> Run:
        raise ConfigurationError("no_films", "there are no films")

    with pytest.raises(ConfigurationError, match="5 trials in a row failed, the last: no_films: there are no films"):
        run_study(tmp_path, searched(), fit=fit)


def test_wrong_tables_are_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no \\[search\\] table"):
        run_study(tmp_path, recipe())
    unknown = searched(space={"training.rate": {"kind": "int", "low": 1, "high": 2}})
    with pytest.raises(ConfigurationError, match=r"no value at 'training\.rate'"):
        run_study(tmp_path, unknown)
    assert not (tmp_path / "runs").exists()


def test_checkpoints_of_finished_trials_are_removed(tmp_path: Path) -> None:
    def fit(chosen: Recipe, where: Places, console: Console) -> Run:
        run = open_run(chosen, where)
        (run.path / "checkpoint.pt").write_bytes(b"large")
        return run

    run_study(tmp_path, searched(2), fit=fit)
    assert not list((tmp_path / "runs").rglob("checkpoint.pt"))


def test_a_longer_study_is_the_same_study() -> None:
    short, long, wider = searched(2), searched(200), searched(2, pruning=True)
    names = [study_name(r, r.search) for r in (short, long, wider) if r.search is not None]
    assert names[0] == names[1] != names[2]


def test_a_store_that_cannot_be_opened_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ConfigurationError, match="the study's store cannot be opened"):
        run_study(tmp_path, searched(1), storage=f"sqlite:///{tmp_path / 'missing' / 'studies.db'}")


def test_a_store_that_another_process_is_just_making_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = module._connected, []

    def second_time(url: str, heartbeat_s: int) -> Any:
        tries.append(url)
        if len(tries) == 1:
            raise IntegrityError("INSERT INTO alembic_version", None, Exception("UNIQUE constraint failed"))
        return real(url, heartbeat_s)

    monkeypatch.setattr(module, "_connected", second_time)
    run_study(tmp_path, searched(1))
    assert len(tries) == 2


def test_importances_need_trials() -> None:
    study = optuna.create_study()
    assert importances(study, 0) == {}


def test_best_toml_is_toml_with_its_origin(undisturbed: Path) -> None:
    text = next((undisturbed / "runs").glob("study-*/best.toml")).read_text()
    assert text.startswith("# Best of 6 completed trials of study tiny-")
    assert tomllib.loads(text)["name"] == "tiny"
