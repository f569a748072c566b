"""Runs in MLflow: recipe as parameters, epochs and figures as metrics, the files that explain them as artefacts.

The store is runs/mlflow.db (SQLite), artefacts beside it in runs/mlflow-artefacts/; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are
respected. Look at it with `mlflow ui --backend-store-uri sqlite:///runs/mlflow.db` (package `mlflow`; this project needs only its
`mlflow-skinny`). MLflow's telemetry is switched off.

A run is known by its folder's name: tracking it again brings the same entry up to date. What it no longer says (metrics of a step that
was taken back) stays in MLflow's history.

report.html and checks/ show films: they are kept in a local store only. To a server go figures, recipe and environment.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from app.errors import ConfigurationError
from training.places import Places
from training.runs import Run

RUN_TAG = "cxr.run"
_PLAIN_FILES: tuple[str, ...] = tuple(
    f"{name}.json" for name in ("recipe", "splits", "environment", "fitted", "classical", "decision")
)
_PLAIN_FILES += ("metrics.jsonl", "promotion.json", "exported.json")  # figures-*.json besides
_SHOWS_FILMS = ("report.html", "checks")
_LOCAL = ("sqlite:", "file:")
_STRANGE = re.compile(r"[^A-Za-z0-9_\-. :/]")
_BATCH = 100  # MLflow's limit for parameters and tags in one call


def track(run: Run, places: Places, tags: Mapping[str, str] | None = None) -> str:
    """Track the run, or bring its entry up to date. Returns MLflow's run id.

    tags: further ones. Raises ConfigurationError where mlflow is not installed.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{places.runs.resolve() / 'mlflow.db'}"
    local = uri.startswith(_LOCAL) or "://" not in uri
    places.runs.mkdir(parents=True, exist_ok=True)
    with _alone(places.runs / "mlflow.lock"), _quiet():
        client = _client(uri)
        experiment = _experiment(client, run, places, local=local)
        run_id = _entry(client, experiment, run)
        _log_params(client, run_id, run)
        _log_metrics(client, run_id, run)
        for key, value in (_tags(run) | dict(tags or {})).items():
            client.set_tag(run_id, key, value)
        for path in _artefacts(run, local):
            (client.log_artifacts if path.is_dir() else client.log_artifact)(
                run_id, str(path), **({"artifact_path": path.name} if path.is_dir() else {})
            )
        client.set_terminated(run_id, "FINISHED" if _finished(run) else "RUNNING")
    return run_id


def said_where_away(tracking: Callable[[], object], console: Console) -> None:
    """Do it; a store that is away is said, no more: the run's folder has everything, and the next step, or `track`, catches up."""
    try:
        tracking()
    except Exception as error:  # MLflow's own, SQLAlchemy's, of the network: whatever it was, the work is done
        console.print(f"not tracked in MLflow: {error}", style="yellow", markup=False, highlight=False)


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own seven take minutes, after every step
    try:
        from mlflow.tracking import MlflowClient  # noqa: PLC0415  seconds to import, and only here
    except ImportError as error:
        raise ConfigurationError(
            "missing_package", "tracking needs mlflow-skinny: install cxr-triage[train]"
        ) from error
    return MlflowClient(uri)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time: MLflow makes the tables of a new store without asking who else does."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's remarks on its tables, and its SQLAlchemy deprecations, which are MLflow's to mend."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _experiment(client: Any, run: Run, places: Places, *, local: bool) -> str:
    """The experiment's id: one for each task, or MLFLOW_EXPERIMENT_NAME. local: its artefacts lie beside the runs; MLflow's own place
    for them would be the working directory."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"cxr-triage-{run.recipe.data.task}"
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    where = (places.runs.resolve() / "mlflow-artefacts").as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=where))


def _entry(client: Any, experiment: str, run: Run) -> str:
    found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.path.name}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    made = client.create_run(experiment, run_name=run.path.name, tags={RUN_TAG: run.path.name})
    return str(made.info.run_id)


def _log_params(client: Any, run_id: str, run: Run) -> None:
    from mlflow.entities import Param  # noqa: PLC0415

    known = client.get_run(run_id).data.params
    params = dict(flattened(run.recipe.model_dump(mode="json", exclude={"search"})))
    params |= {f"classical.{key}": value for key, value in flattened(run.optional_json("classical.json") or {})}
    new = [Param(_key(k), str(v)[:6000]) for k, v in params.items() if v is not None and _key(k) not in known]
    for start in range(0, len(new), _BATCH):
        client.log_batch(run_id, params=new[start : start + _BATCH])


def _log_metrics(client: Any, run_id: str, run: Run) -> None:
    """Epochs at their step; figures at step 0, at the time of their file, and only where they changed."""
    from mlflow.entities import Metric  # noqa: PLC0415

    known = client.get_run(run_id).data.metrics
    new = []
    for name, points in _epochs(run).items():
        logged = {m.step: m.value for m in client.get_metric_history(run_id, name)} if name in known else {}
        new += [Metric(name, v, at, step) for step, v, at in points if logged.get(step) != v]
    new += [Metric(k, v, at, 0) for k, v, at in _figures(run) if known.get(k) != v]
    for start in range(0, len(new), 1000):
        client.log_batch(run_id, metrics=new[start : start + 1000])


def _epochs(run: Run) -> dict[str, list[tuple[int, float, int]]]:
    """metrics.jsonl by name: (epoch, value, time in ms)."""
    path = run.path / "metrics.jsonl"
    if not path.is_file():
        return {}
    at = int(path.stat().st_mtime * 1000)
    found: dict[str, list[tuple[int, float, int]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for name, value in entry.items():
            if name != "epoch" and _is_number(value):
                found.setdefault(_key(f"epoch/{name}"), []).append((int(entry["epoch"]), float(value), at))
    return found


def _figures(run: Run) -> Iterator[tuple[str, float, int]]:
    """Every number of figures-*.json by its path (`report/clean/macro/auroc`; ends of an interval as `.../low`, `.../high`)."""
    for path in sorted(run.path.glob("figures-*.json")):
        at = int(path.stat().st_mtime * 1000)
        step = path.stem.removeprefix("figures-")
        for key, value in flattened(json.loads(path.read_text(encoding="utf-8")), "/", lists=False):
            if _is_number(value):
                yield _key(f"{step}/{_short(key)}"), float(value), at


def _short(key: str) -> str:
    return key.removesuffix("/value")


def flattened(content: Mapping[str, Any], separator: str = ".", *, lists: bool = True) -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings by their path. Lists by number, or, of a figure's `ci`, as low and high and else left out."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}{separator}{rest}", leaf) for rest, leaf in flattened(value, separator, lists=lists))
        elif isinstance(value, list) and lists:
            yield from ((f"{key}{separator}{rest}", leaf) for rest, leaf in flattened(_numbered(value), separator))
        elif isinstance(value, list):
            if key == "ci" and len(value) == 2:
                yield from zip(("low", "high"), value, strict=True)
        else:
            yield str(key), value


def _numbered(items: Iterable[Any]) -> dict[str, Any]:
    return {str(i): item for i, item in enumerate(items)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _key(text: str) -> str:
    """MLflow takes letters, digits and _-. :/ in names of at most 250 characters."""
    return _STRANGE.sub("_", text)[:250]


def _tags(run: Run) -> dict[str, str]:
    environment = run.optional_json("environment.json") or {}
    hard = run.optional_json("figures-hard.json") or {}
    promotion = run.optional_json("promotion.json")
    return {
        "recipe": run.recipe.name,
        "recipe_digest": run.recipe.digest,
        "weights_digest": run.weights_digest() if run.complete else str(hard.get("weights_digest", "")),
        "mlflow.source.git.commit": str(environment.get("git_commit", "unknown")),
        "task": run.recipe.data.task,
        "kind": "classical" if (run.path / "classical.json").is_file() else "network",
        "promotion": "" if promotion is None else str(promotion["label"]),
        "bundle": str((run.optional_json("exported.json") or {}).get("bundle", "")),
    }


def _artefacts(run: Run, local: bool) -> list[Path]:
    names = [*_PLAIN_FILES, *sorted(path.name for path in run.path.glob("figures-*.json"))]
    names += _SHOWS_FILMS if local else ()
    return [run.path / name for name in names if (run.path / name).exists()]


def _finished(run: Run) -> bool:
    return run.complete or (run.path / "figures-hard.json").is_file()
