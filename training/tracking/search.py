"""A study over a recipe's `[search]` table: which of its values give the best selection figure on the hard validation.

Each trial is a run of the changed recipe in runs/study-<name>/runs/, fitted and then judged by the `hard` step; the test split is not
opened. The trials stand in an SQL store, runs/studies.db or one that several machines share: every process that searches the same recipe
there takes trials of the same study until there are as many as asked for, over all of them.

The sampler is TPE (Bergstra et al. 2011), one for each trial, seeded with the recipe's seed and the trial's number: an interrupted study
goes on as it would have, and processes do not draw the same. A trial whose process died is started again with its values and
continues its run from the last epoch: at once after Ctrl-C, else when its heartbeat has been missing for three intervals.

A trial is pruned where its validation metric (`training.early_stopping`) falls behind the median of the others at the same epoch
(Golovin et al. 2017), if the recipe validates and its `[search]` says so. What came out: runs/study-<name>/index.html, best.toml.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from app.errors import ConfigurationError
from training.fitting.fit import fit as fit_recipe
from training.judging.evaluate import evaluate as evaluate_step
from training.places import Places
from training.recipe import Recipe
from training.runs import Run
from training.tracking.spec import FloatRange, IntRange, Range, SearchPart
from training.tracking.study_page import write_outcome
from training.tracking.track import said_where_away, track

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

OnEpoch = Callable[[Mapping[str, float]], None]
MAX_FAILURES = 5  # of one process in a row: then it is not the values
MAX_RETRIES = 3  # of one trial whose process died
HEARTBEAT_S = 20
_SIGN = {"auroc": 1.0, "macro_f1": 1.0, "val_loss": -1.0}


Fit = Callable[
    ..., Run
]  # (recipe, places, console); with on_epoch, which may end the fit by raising, trials can be pruned
Judge = Callable[[Run, Places, str], dict[str, Any]]
Note = Callable[[Run, Places, Mapping[str, str]], object]


@dataclass(frozen=True)
class _Search:
    """What every trial needs. trials: how many the study is to have."""

    recipe: Recipe
    part: SearchPart
    places: Places
    console: Console
    trials: int
    fit: Fit
    judge: Judge
    note: Note

    @property
    def folder(self) -> Path:
        return self.places.runs / f"study-{study_name(self.recipe, self.part)}"


def search(
    recipe: Recipe,
    places: Places,
    console: Console,
    *,
    storage: str | None = None,
    trials: int | None = None,
    fit: Fit = fit_recipe,
    judge: Judge = evaluate_step,
    note: Note = track,
    heartbeat_s: int = HEARTBEAT_S,
) -> Path:
    """Take trials until the study has them all, waiting for those of other processes. Returns best.toml.

    Args:
        storage: SQLAlchemy URL; default: runs/studies.db.
        trials: in all, over every process; default: the recipe's.
        fit, judge, note: as `training.fitting.fit.fit`, `training.judging.evaluate.evaluate` and `training.tracking.track.track`.
        heartbeat_s: a process that has not been heard of for three times as long is taken for dead.

    Raises:
        ConfigurationError: the recipe has no `[search]`, a path of it does not exist, optuna is missing, MAX_FAILURES trials in a row
            failed, or not one trial was completed.
    """
    part = recipe.search
    if part is None:
        raise ConfigurationError("no_search", f"{recipe.name} has no [search] table: say what a study may change")
    recipe.changed({path: _example(drawn) for path, drawn in part.space.items()})
    task = _Search(recipe, part, places, console, trials or part.trials, fit, judge, note)
    (task.folder / "runs").mkdir(parents=True, exist_ok=True)
    if part.pruning and not prunes(part, recipe, fit):
        console.print("no trial is pruned: the recipe has no early_stopping, so nothing is validated after an epoch")
    url = storage or f"sqlite:///{places.runs.resolve() / 'studies.db'}"
    with _stable_api():
        study = _open_study(task, url, heartbeat_s)
        _take_trials(task, study, heartbeat_s)
    return write_outcome(study, recipe, part, task.folder)


def study_name(recipe: Recipe, part: SearchPart) -> str:
    """Of the recipe and its search space; the number of trials is not part of it, so that a study can be made longer."""
    content = json.dumps([recipe.digest, part.model_dump(mode="json", exclude={"trials"})], sort_keys=True)
    return f"{recipe.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415  a second to import, and only here
    except ImportError as error:
        raise ConfigurationError("missing_package", "a search needs optuna: install cxr-triage[train]") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class _stable_api:  # noqa: N801  a context manager
    """Optuna calls its heartbeat experimental at every use; its behaviour is tested here."""

    def __enter__(self) -> None:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore", _optuna().exceptions.ExperimentalWarning)

    def __exit__(self, *exception: object) -> None:
        self._caught.__exit__(*exception)  # type: ignore[arg-type]


def _open_study(task: _Search, url: str, heartbeat_s: int) -> Study:
    study = _optuna().create_study(
        study_name=study_name(task.recipe, task.part),
        storage=_open_storage(url, heartbeat_s),
        direction="maximize",
        load_if_exists=True,
        pruner=_optuna().pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    )
    study.set_user_attr("recipe", task.recipe.run_name)
    return study  # type: ignore[no-any-return]


def _open_storage(url: str, heartbeat_s: int) -> Any:
    """The store, its tables made if it is new. Of two processes that make them at once one fails, and finds them at its next try."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  optuna's own

    waits = [0.5, 1.0, 2.0]
    while True:
        try:
            return _connected(url, heartbeat_s)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            if not waits:
                raise ConfigurationError("storage", f"the study's store cannot be opened: {error}") from error
            time.sleep(waits.pop(0))


def _connected(url: str, heartbeat_s: int) -> Any:
    return _optuna().storages.RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None,
        heartbeat_interval=heartbeat_s,
        grace_period=3 * heartbeat_s,
        heartbeat_stale_trial_callback=_retry(),
    )


def _retry() -> Any:
    return _optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES, inherit_intermediate_values=True)


def _take_trials(task: _Search, study: Study, heartbeat_s: int) -> None:
    optuna, failures = _optuna(), 0
    state = optuna.trial.TrialState
    silent: dict[int, float] = {}
    while True:
        optuna.storages.fail_stale_trials(study)
        _fail_silent(study, silent, 3 * heartbeat_s)
        counted = _by_state(study)
        done = counted[state.COMPLETE] + counted[state.PRUNED]
        if done >= task.trials:
            return
        if done + counted[state.RUNNING] >= task.trials:  # by other processes, dead or alive
            time.sleep(min(heartbeat_s, 5))
            continue
        taken = _one_trial(task, study)
        failures = failures + 1 if "failure" in taken.user_attrs else 0
        if failures >= MAX_FAILURES:
            raise ConfigurationError(
                "search_fails", f"{failures} trials in a row failed, the last: {taken.user_attrs['failure']}"
            )


def _fail_silent(study: Study, silent: dict[int, float], grace_s: float) -> None:
    """Give up trials that were asked for and have not begun: their process died before its first heartbeat.

    silent: since when this process has seen each of them, by number; kept between calls.
    """
    state = _optuna().trial.TrialState
    for trial in study.get_trials(deepcopy=False):
        if trial.state == state.RUNNING and "process" not in trial.user_attrs:
            since = silent.setdefault(trial.number, time.monotonic())
            if time.monotonic() - since > grace_s:
                study.tell(trial.number, state=state.FAIL)


def _by_state(study: Study) -> dict[Any, int]:
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    return {state: states.count(state) for state in _optuna().trial.TrialState}


class _SurplusError(Exception):
    """Two processes asked for the last trial; the later one gives it back."""


def _one_trial(task: _Search, study: Study) -> FrozenTrial:
    """Ask for one trial and run it. A fault in its values marks it failed; any other fault is raised."""
    taken: list[int] = []

    def objective(trial: Trial) -> float:
        taken.append(trial.number)
        return _objective(task, study, trial)

    try:
        study.optimize(objective, n_trials=1, catch=(ConfigurationError, _SurplusError))
    except KeyboardInterrupt:
        _retry()(study, study.get_trials()[taken[-1]])
        raise
    return study.get_trials()[taken[-1]]


def _objective(task: _Search, study: Study, trial: Trial) -> float:
    optuna = _optuna()
    trial.set_user_attr("process", _process())
    if _place(study, trial) >= task.trials:
        raise _SurplusError
    study.sampler = optuna.samplers.TPESampler(
        seed=_seed(task.recipe.seed, trial.number), n_startup_trials=min(10, max(4, task.trials // 3))
    )
    changed = task.recipe.changed({path: _drawn(trial, path, drawn) for path, drawn in task.part.space.items()})
    trial.set_user_attr("run", changed.run_name)
    places = replace(task.places, runs=task.folder / "runs")
    start = time.monotonic()
    try:
        run = task.fit(changed, places, task.console, **_watching(task, changed, trial))
        selection = float(task.judge(run, places, "hard")["selection"])
    except ConfigurationError as error:
        trial.set_user_attr("failure", str(error))
        raise
    trial.set_user_attr("seconds", round(time.monotonic() - start, 1))
    (run.path / "checkpoint.pt").unlink(missing_ok=True)  # nothing is left to continue
    tags = {"study": study.study_name, "trial": str(trial.number)}
    said_where_away(lambda: task.note(run, task.places, tags), task.console)
    task.console.print(
        f"trial {trial.number}: selection {selection:.4f}; {_place(study, trial) + 1} of {task.trials} taken"
    )
    return selection


def _place(study: Study, trial: Trial) -> int:
    """How many trials that did not fail were asked for before this one."""
    failed = _optuna().trial.TrialState.FAIL
    return sum(t.state != failed for t in study.get_trials(deepcopy=False) if t.number < trial.number)


def _watching(task: _Search, recipe: Recipe, trial: Trial) -> dict[str, OnEpoch]:
    """What fit is given to report the validation metric of each epoch; empty where no trial can be pruned."""
    stopping = recipe.training.early_stopping
    if not prunes(task.part, recipe, task.fit) or stopping is None:
        return {}
    metric = stopping.metric if stopping.metric == "val_loss" else f"val_{stopping.metric}"

    def on_epoch(entry: Mapping[str, float]) -> None:
        trial.report(_SIGN[stopping.metric] * entry[metric], int(entry["epoch"]))
        if trial.should_prune():
            raise _optuna().TrialPruned

    return {"on_epoch": on_epoch}


def prunes(part: SearchPart, recipe: Recipe, fit: Fit) -> bool:
    """Whether trials can be ended early: asked for, validated after each epoch, and told by fit."""
    return part.pruning and recipe.training.early_stopping is not None and "on_epoch" in signature(fit).parameters


def _drawn(trial: Trial, path: str, drawn: Range) -> Any:
    if isinstance(drawn, FloatRange):
        return trial.suggest_float(path, drawn.low, drawn.high, log=drawn.log)
    if isinstance(drawn, IntRange):
        return trial.suggest_int(path, drawn.low, drawn.high)
    return trial.suggest_categorical(path, drawn.values)


def _example(drawn: Range) -> Any:
    return drawn.low if isinstance(drawn, FloatRange | IntRange) else drawn.values[0]


def _seed(seed: int, number: int) -> int:
    """32 bits that differ from trial to trial and are the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
