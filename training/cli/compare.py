"""Commands over many runs: leaderboard, search, classical baselines, and the figures that the README keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.classical.run import run_classical
from training.cli.shared import Change, RecipeName, RunName, Whole, chosen_recipe, console, kept
from training.publishing.readme import replace_between_markers
from training.publishing.reported import record as record_run
from training.runs import find_run
from training.tracking.board_pages import readme_block
from training.tracking.leaderboard import leaderboard as make_leaderboard
from training.tracking.search import search as search_recipe
from training.tracking.track import track as track_run


def register(app: typer.Typer) -> None:
    for command in (leaderboard, search, classical, track, record):
        app.command()(command)


def leaderboard(
    ctx: typer.Context,
    readme: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Also write it between the markers `figures:leaderboard` of this file."
        ),
    ] = None,
) -> None:
    """All judged runs by their selection figure; ties by paired bootstrap. The test split plays no part in it.

    Writes leaderboard.md, .html and .json into the folder of runs.
    """
    made = make_leaderboard(ctx.obj)
    if readme is not None:
        text = replace_between_markers(readme.read_text(), "figures:leaderboard", readme_block(made))
        readme.write_text(text)
    for table in made.tables():
        Console().print(table)


def search(  # noqa: PLR0917  typer passes by name
    ctx: typer.Context,
    recipe: RecipeName,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all; default: the recipe's.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL that several machines share; default: runs/studies.db.")
    ] = None,
    whole: Whole = False,
    change: Change = None,
) -> None:
    """An Optuna study over the recipe's search table. Interrupted? Run the same command: it goes on."""
    chosen = chosen_recipe(recipe, None, whole, change)
    typer.echo(search_recipe(chosen, ctx.obj, console(), storage=storage, trials=trials))


def classical(ctx: typer.Context, recipe: RecipeName, whole: Whole = False, change: Change = None) -> None:
    """HOG with logistic regression, MLP, random forest and boosting on the recipe's films: lines of the leaderboard, no bundles."""
    chosen = chosen_recipe(recipe, None, whole, change)
    for run in run_classical(chosen, ctx.obj, console(), part=chosen.classical):
        kept(find_run(run, ctx.obj), ctx.obj)
        typer.echo(run)


def track(ctx: typer.Context, run: RunName) -> None:
    """Keep a run in MLflow (runs/mlflow.db, or MLFLOW_TRACKING_URI). Every step of a run does so at its end."""
    track_run(find_run(run, ctx.obj), ctx.obj)


def record(
    ctx: typer.Context,
    run: RunName,
    reported: Annotated[Path | None, typer.Option(help="The JSON file; default: training/reported.json.")] = None,
) -> None:
    """Keep a run's test figures for the tables of the README."""
    run_found = find_run(run, ctx.obj)
    typer.echo(record_run(run_found, reported) if reported else record_run(run_found))
