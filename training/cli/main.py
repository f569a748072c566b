"""From films to a verified bundle, one step at a time.

\b
    splits      who is trained on, who validates, who tests
    eda         look at the films before training: one HTML page
    fit         train a recipe; interrupted, the same command goes on
    evaluate    judge a run: hard, report, external, then test (in the ledger)
    checks      corruptions, slices, shift, explanations, shortcuts, worklists
    promote     hold a run against its promotion policy
    export      write a bundle, verify it, make it the latest
    report      one HTML page with everything
    run         all of the above but eda, in order

\b
    leaderboard which runs are best, and which differences are no more than chance
    search      an Optuna study over the recipe's search table; resumable
    classical   HOG with logistic regression, MLP, forest, boosting on the recipe's films
    record      keep a run's figures for the README
    gate        give a bundle the parts that refuse what it must not judge
    variants    give a bundle int8 and other precisions, each with its measured loss

Runs live in runs/<recipe>-<digest>/. Choose between runs by `leaderboard`,
which knows the validation only; the test split is looked at once per
reported run, and every look adds a line to the ledger. Several processes:
torchrun --nproc-per-node 2 -m training fit RECIPE
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from app.errors import CxrError
from training.cli import bundles, compare, steps
from training.places import Places

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
steps.register(app)
compare.register(app)
bundles.register(app)

_DEFAULT = Places()


@app.callback()
def _places(  # noqa: PLR0917  typer passes by name
    ctx: typer.Context,
    data: Annotated[Path, typer.Option(help="Folder that holds the recipe's sources.")] = _DEFAULT.data,
    cache: Annotated[Path, typer.Option(help="Folder for decoded films; safe to delete.")] = _DEFAULT.cache,
    runs: Annotated[Path, typer.Option(help="Folder of runs, their tracking and studies.")] = _DEFAULT.runs,
    bundles: Annotated[Path, typer.Option(help="Folder that bundles are written to.")] = _DEFAULT.bundles,
    ledger: Annotated[Path, typer.Option(help="CSV file; each look at the test split adds a line.")] = _DEFAULT.ledger,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; default: all cores. On a busy machine 1 is faster.")
    ] = None,
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    ctx.obj = Places(data=data, cache=cache, runs=runs, bundles=bundles, ledger=ledger)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. An expected error is one line on stderr and exit code 1."""
    try:
        return app(arguments)
    except CxrError as error:
        Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, highlight=False)
        raise SystemExit(1) from error
