"""What several commands share: their arguments, the terminal, and a recipe with the changes asked for on the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from app.errors import ConfigurationError
from training.places import Places
from training.publishing.policy import load_policy
from training.recipe import Recipe, load_recipe
from training.runs import Run
from training.tracking.track import said_where_away, track

RecipeName = Annotated[str, typer.Argument(help="A recipe by name (training/recipes/) or a TOML file.")]
RunName = Annotated[str, typer.Argument(help="A run: its folder, its folder's name, or a recipe with one run.")]
Version = Annotated[str | None, typer.Option(help="Version of the bundle, like 1.0.0; default: the next free one.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Another seed than the recipe's; the split stays.")]
Whole = Annotated[bool, typer.Option("--whole", help="All training films: lifts the limits of the recipe's sources.")]
Change = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one value of the recipe: training.learning_rate=3e-4."),
]
AcceptFailed = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="The run's folder name: export it though it failed its policy; never the latest."),
]


def console() -> Console:
    """Progress and remarks go to stderr; of several processes only the first speaks."""
    return Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")


def one_process() -> None:
    """Raises ConfigurationError under torchrun: only `fit` is shared, everything else would be done by each process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError("one_process", "torchrun is for `fit`; run this command without it")


def kept(run: Run, places: Places) -> Run:
    """The run, its entry in MLflow brought up to date; of several processes the first does it. A store that is away is said, no more:
    the run's folder has everything, and the next step, or `track`, catches up."""
    if not console().quiet:
        said_where_away(lambda: track(run, places), console())
    return run


def chosen_recipe(name: str, seed: int | None, whole: bool, changes: Sequence[str] | None) -> Recipe:
    """The recipe as asked for. Raises ConfigurationError for a change that it does not know, and for a policy that is not there or not
    valid: `promote` would say so only after the look at the test split."""
    recipe = load_recipe(name)
    values: dict[str, Any] = dict(_change(text) for text in changes or ())
    if seed is not None:
        values["seed"] = seed
    if whole:
        values |= {f"data.sources.{i}.limit": None for i in range(len(recipe.data.sources))}
    chosen = recipe.changed(values) if values else recipe
    load_policy(chosen.policy)
    return chosen


def _change(text: str) -> tuple[str, Any]:
    """`path=value`; the value is JSON where it is that, else the text itself."""
    path, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError("invalid_change", f"--set {text}: wanted PATH=VALUE")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value
