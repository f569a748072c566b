"""The figures of runs that the README shows, kept in a small committed file: `training/reported.json`.

One entry per recipe and seed. Runs themselves are not committed, so this file is what the README's tables are made from, and
nothing else may be typed into them. Entries of one recipe share its digest without the seed: recording a run of a changed recipe
drops what the recipe gave before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from app.bundle.manifest import Metric
from app.errors import ConfigurationError
from training.places import CHECKOUT
from training.publishing import evidence
from training.publishing.evidence import load_figures
from training.publishing.promotion import check_weights
from training.recipe import Recipe, load_recipe
from training.runs import Run, now, write_atomically

REPORTED = CHECKOUT / "training" / "reported.json"
FORMAT = 1  # raise when an entry's fields change; recorded runs are then recorded again


class Entry(BaseModel):
    """One run. family: digest of its recipe without the seed; test: name of its test set; metrics: of the test set (without the calibrator,
    too), its sources, the external sets and the hard validation; promotion: the label, "" where no policy was asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    title: str
    run: str
    recipe_digest: str
    family: str
    seed: int
    weights_digest: str
    git_commit: str
    recorded_at: str
    command: str
    promotion: str
    test: str
    metrics: tuple[Metric, ...]

    def metric(self, name: str, data: str | None = None) -> Metric | None:
        """A figure of the test set, or of another one."""
        return next((m for m in self.metrics if m.name == name and m.data == (data or self.test)), None)


class Reported(BaseModel):
    """The file. Sorted by recipe and seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    runs: tuple[Entry, ...] = ()

    def of(self, recipe: str) -> tuple[Entry, ...]:
        """All recorded seeds of a recipe, in order."""
        return tuple(e for e in self.runs if e.recipe == recipe)


def record(run: Run, path: Path = REPORTED) -> str:
    """Keep the run's figures in the file, in place of those of the same recipe and seed. Returns what was done, in words.

    Raises ConfigurationError before the test split was looked at, and where figures are those of other weights.
    """
    figures = load_figures(run)
    check_weights(run, figures)
    if figures.test is None:
        raise ConfigurationError(
            "step_missing", f"{run.path.name} was not judged on its test split: run `evaluate --split test`"
        )
    entry = _entry(run, figures)
    kept = [e for e in load_reported(path).runs if (e.recipe, e.seed) != (entry.recipe, entry.seed)]
    dropped = [e for e in kept if e.recipe == entry.recipe and e.family != entry.family]
    runs = sorted([*(e for e in kept if e not in dropped), entry], key=lambda e: (e.recipe, e.seed))
    content = Reported(runs=tuple(runs)).model_dump(mode="json", exclude_none=True)
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    gone = f"; {len(dropped)} of the recipe before it was changed dropped" if dropped else ""
    return f"{path.name}: {entry.run} recorded, seed {entry.seed}, {len(entry.metrics)} figures{gone}"


def load_reported(path: Path = REPORTED) -> Reported:
    """Empty where nothing was recorded yet. Raises ConfigurationError for a file that is not one of this format."""
    if not path.is_file():
        return Reported()
    try:
        found = Reported.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ConfigurationError("invalid_reported", f"{path.name}: {error}") from error
    if found.format != FORMAT:
        raise ConfigurationError("invalid_reported", f"{path.name} has format {found.format}, wanted {FORMAT}")
    return found


def family(recipe: Recipe) -> str:
    """SHA-256 of the recipe without its seed: what runs of several seeds share."""
    return recipe.changed({"seed": 0}).digest


def command(recipe: Recipe) -> str:
    """What makes this very recipe again from the file of its name."""
    line = f"python -m training run {recipe.name}"
    try:
        named = load_recipe(recipe.name)
    except ConfigurationError:  # a file of the user's own
        return f"python -m training run <{recipe.name}.toml>"
    if named.seed != recipe.seed:
        line += f" --seed {recipe.seed}"
    seeded = named.changed({"seed": recipe.seed})
    if seeded.digest == recipe.digest:
        return line
    whole = seeded.changed({f"data.sources.{i}.limit": None for i in range(len(named.data.sources))})
    return f"{line} --whole" if whole.digest == recipe.digest else f"{line} --set ... (digest {recipe.digest[:8]})"


def _entry(run: Run, figures: evidence.Figures) -> Entry:
    recipe, test = run.recipe, figures.test_name
    wanted = (test, evidence.HARD)
    shown = [
        m for m in evidence.metrics(figures) if m.data in wanted or m.data.startswith((f"{test}, ", evidence.EXTERNAL))
    ]
    promotion: dict[str, Any] = run.optional_json("promotion.json") or {}
    made: dict[str, Any] = run.optional_json("environment.json") or {}
    return Entry(
        recipe=recipe.name,
        title=recipe.title,
        run=run.path.name,
        recipe_digest=recipe.digest,
        family=family(recipe),
        seed=recipe.seed,
        weights_digest=run.weights_digest(),
        git_commit=str(made.get("git_commit", "unknown")),
        recorded_at=now(),
        command=command(recipe),
        promotion=str(promotion.get("label", "")),
        test=test,
        metrics=tuple(_rounded(m) for m in [*shown, *_uncalibrated(figures)]),
    )


def _uncalibrated(figures: evidence.Figures) -> list[Metric]:
    """The calibration figures of the test set as they were before the calibrator: `brier, uncalibrated` and its kin."""
    described = figures.described("test") or {}
    return [
        Metric(name=f"{name}, uncalibrated", data=figures.test_name, n=described["n"], **before)
        for name, parts in described.get("calibration", {}).items()
        if (before := parts.get("before")) is not None
    ]


def _rounded(metric: Metric) -> Metric:
    """Six digits are more than any interval here deserves, and keep the file small and its differences readable."""
    ci = None if metric.ci is None else (round(metric.ci[0], 6), round(metric.ci[1], 6))
    return metric.model_copy(update={"value": round(metric.value, 6), "ci": ci})
