"""The steps from films to a report, each a command, and `run`, which takes them in order."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from app.bundle.store import BundleStore
from training.cli.bundles import reduced_pairs
from training.cli.shared import (
    AcceptFailed,
    Change,
    RecipeName,
    RunName,
    Seed,
    Version,
    Whole,
    chosen_recipe,
    console,
    kept,
    one_process,
)
from training.data.eda import write_eda
from training.data.films import Film
from training.data.sources import intended_use
from training.data.splits import recipe_splits
from training.data.targets import targets
from training.fitting.fit import fit as fit_recipe
from training.judging.checks import run_checks
from training.judging.evaluate import evaluate as evaluate_step
from training.judging.evaluate import summary
from training.judging.reduced import has_originals
from training.places import Places
from training.publishing.export import Exported
from training.publishing.export import export as export_run
from training.publishing.promotion import promote as promote_run
from training.publishing.report import write_report
from training.recipe import Recipe
from training.runs import Run, find_run


class Step(StrEnum):
    """What a run is judged on, in this order."""

    HARD = "hard"
    REPORT = "report"
    EXTERNAL = "external"
    TEST = "test"


def register(app: typer.Typer) -> None:
    for command in (splits, eda, fit, evaluate, checks, promote, export, report):
        app.command()(command)
    app.command(name="run")(run_all)


def splits(
    ctx: typer.Context, recipe: RecipeName, seed: Seed = None, whole: Whole = False, change: Change = None
) -> None:
    """Show how the recipe's films are dealt out, by patient; opens no image."""
    _show_splits(chosen_recipe(recipe, seed, whole, change), ctx.obj)


def eda(ctx: typer.Context, recipe: RecipeName, change: Change = None) -> None:
    """Look at the films before training: classes, sizes, exposure, texture, and what separates classes without a lung."""
    typer.echo(write_eda(chosen_recipe(recipe, None, True, change), ctx.obj, console()))


def fit(ctx: typer.Context, recipe: RecipeName, seed: Seed = None, whole: Whole = False, change: Change = None) -> None:
    """Train a recipe to its end. Interrupted? Run the same command: it goes on from the last finished epoch."""
    run = kept(fit_recipe(chosen_recipe(recipe, seed, whole, change), ctx.obj, console()), ctx.obj)
    if not console().quiet:
        typer.echo(run.path.name)


def evaluate(
    ctx: typer.Context,
    run: RunName,
    split: Annotated[Step, typer.Option(help="hard chooses and fixes thresholds; the others measure.")],
) -> None:
    """Judge a run. `hard` comes first and fixes calibration and operating points; `test` adds a line to the ledger."""
    found = find_run(run, ctx.obj)
    _evaluate(found, ctx.obj, split)
    kept(found, ctx.obj)


def checks(ctx: typer.Context, run: RunName) -> None:
    """Corruption suites, slices, embedding shift, test-time augmentation, explanations, shortcuts, worklists and galleries."""
    found = find_run(run, ctx.obj)
    _checks(found, ctx.obj)
    kept(found, ctx.obj)


def promote(ctx: typer.Context, run: RunName) -> None:
    """Hold a judged run against its policy (training/policies/); exit 1 where a line fails."""
    found = find_run(run, ctx.obj)
    passed = _promote(found)
    kept(found, ctx.obj)
    if not passed:
        raise typer.Exit(1)


def export(ctx: typer.Context, run: RunName, version: Version = None, accept_failed: AcceptFailed = None) -> None:
    """Write the run's bundle, verify it, run its golden self-test, and make it the latest.

    A run that fails its policy is exported only where --accept-failed names it: the bundle then carries its failed lines, is for
    research only and never becomes the latest.
    """
    found = find_run(run, ctx.obj)
    _export(found, ctx.obj, version, accept_failed)
    kept(found, ctx.obj)


def report(ctx: typer.Context, run: RunName) -> None:
    """Write report.html into the run's folder: everything that is known about the run, on one page."""
    found = find_run(run, ctx.obj)
    typer.echo(write_report(found))
    kept(found, ctx.obj)


def run_all(  # noqa: PLR0917  typer passes by name
    ctx: typer.Context,
    recipe: RecipeName,
    version: Version = None,
    seed: Seed = None,
    whole: Whole = False,
    change: Change = None,
    accept_failed: Annotated[
        bool, typer.Option("--accept-failed", help="Export this run though it fails its policy; never the latest.")
    ] = False,
) -> None:
    """Everything for one recipe: splits, fit, evaluate, checks, promote, export, report, tracking.

    Interrupted? The same command goes on: weights that were judged by `hard` or on the test split are not judged so again. Exit 1
    where the policy failed and nothing was exported.
    """
    one_process()
    chosen: Recipe = chosen_recipe(recipe, seed, whole, change)
    intended_use(chosen)  # a source without an origin would stop the export, hours later
    _show_splits(chosen, ctx.obj)
    run = fit_recipe(chosen, ctx.obj, console())
    for step in Step:
        if step in {Step.HARD, Step.TEST} and _judged(run, step):
            typer.echo(f"{step.value}: these weights were judged before")
        else:
            _evaluate(run, ctx.obj, step)
    _checks(run, ctx.obj)
    passed = _promote(run)
    if passed or accept_failed:
        _export(run, ctx.obj, version, None if passed else run.path.name)
    typer.echo(write_report(run))
    kept(run, ctx.obj)
    if not passed and not accept_failed:
        raise typer.Exit(1)


def _show_splits(recipe: Recipe, places: Places) -> None:
    """One column per part; rows: films, patients, films of each class."""
    dealt = vars(splits := recipe_splits(recipe, places))
    table = Table("", *dealt, title=f"splits {splits.digest[:8]}")
    table.add_row("films", *(str(len(films)) for films in dealt.values()))
    table.add_row("patients", *(str(len({f.patient or f.path for f in films})) for films in dealt.values()))
    counts = [_counts(films, recipe) for films in dealt.values()]
    for k, name in enumerate(recipe.data.classes):
        table.add_row(name, *(str(part[k]) for part in counts))
    Console().print(table)


def _counts(films: tuple[Film, ...], recipe: Recipe) -> list[int]:
    """Films of each class of the recipe."""
    if not films:
        return [0] * len(recipe.data.classes)
    shown = np.nansum(targets(films, recipe.data), axis=0).astype(int).tolist()
    return [len(films) - shown[0], shown[0]] if recipe.data.task == "binary" else list(shown)


def _evaluate(run: Run, places: Places, step: Step) -> None:
    for line in summary(evaluate_step(run, places, step.value), step.value):
        typer.echo(line)


def _checks(run: Run, places: Places) -> None:
    run_checks(run, places, console())
    if has_originals(places.data):
        reduced_pairs(run.path.name, places)


def _promote(run: Run) -> bool:
    decided = promote_run(run)
    for line in decided.lines:
        word = "passed" if line.passed else "FAILED"
        typer.echo(f"{word}  {line.name}: wanted {line.wanted}, measured {line.measured}")
    typer.echo(f"{decided.policy}: {decided.label}")
    return decided.passed


def _judged(run: Run, step: Step) -> bool:
    figures = run.optional_json(f"figures-{step.value}.json")
    return figures is not None and bool(figures["weights_digest"] == run.weights_digest())


def _export(run: Run, places: Places, version: str | None, accept_failed: str | None) -> None:
    done = export_run(run, places, version or _next_version(places, run.recipe.name), accept_failed=accept_failed)
    typer.echo(
        f"{done.ref}: verified, {done.size_bytes / 1e6:.1f} MB, digest {done.digest}; "
        f"torch and engine differ by at most {done.difference:.1e}"
    )
    if done.latest:
        typer.echo(f"{done.ref} is the latest: a service without a history starts with it")
    else:
        typer.echo(f"{done.ref} is not the latest and answers `research_only`: {_why(done)}")


def _why(done: Exported) -> str:
    return done.promotion.label if not done.promotion.passed else "its policy says so, or the licence of its films"


def _next_version(places: Places, name: str) -> str:
    versions = [ref.order[1:] for ref in BundleStore(places.bundles).list() if ref.name == name]
    if not versions:
        return "1.0.0"
    major, minor, patch = max(versions)
    return f"{major}.{minor}.{patch + 1}"
