"""From films to a verified bundle, one step at a time.

\b
    splits     who is trained on, who validates, who tests
    fit        train a recipe; interrupted, the same command goes on
    evaluate   judge a run: hard, then report, then test (in the ledger)
    export     write a bundle, verify it, make it the latest
    report     one HTML page with everything
    run        all of the above, in order
    gate       give a bundle the parts that refuse what it must not judge

Runs live in runs/<recipe>-<digest>/. Choose between runs by `leaderboard`,
which knows the hard validation only; the test split is looked at once per
reported run, and every look adds a line to the ledger.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from app.bundle.store import BundleRef, BundleStore
from app.errors import CxrError
from training.data.reduced import LIMIT, compare_copies, model_of
from training.fitting.fit import fit as fit_recipe
from training.fitting.fit import recipe_splits
from training.gate.build import build_gated
from training.gate.fit import GateFit
from training.gate.measure import PICTURES, figure_lines
from training.judging.evaluate import evaluate as evaluate_split
from training.judging.evaluate import summary
from training.judging.shortcuts import probe_shortcuts
from training.places import CHECKOUT, Places
from training.publishing.export import export as export_run
from training.publishing.readme import gate_figures, model_figures, replace_between_markers
from training.publishing.report import write_report
from training.recipe import load_recipe
from training.runs import Run, find_run

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

_DEFAULT = Places()
RecipeName = Annotated[str, typer.Argument(help="A recipe by name (training/recipes/) or a TOML file.")]
RunName = Annotated[str, typer.Argument(help="A run: its folder, its folder's name, or a recipe with one run.")]
Version = Annotated[str | None, typer.Option(help="Version of the bundle, like 1.0.0; default: the next free one.")]


class Split(StrEnum):
    """What a run is judged on."""

    HARD = "hard"
    REPORT = "report"
    TEST = "test"


@app.callback()
def _places(  # noqa: PLR0917  typer passes by name
    ctx: typer.Context,
    data: Annotated[Path, typer.Option(help="Folder of radiographs with their manifests.")] = _DEFAULT.data,
    cache: Annotated[Path, typer.Option(help="Folder for decoded films; safe to delete.")] = _DEFAULT.cache,
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = _DEFAULT.runs,
    bundles: Annotated[Path, typer.Option(help="Folder that bundles are written to.")] = _DEFAULT.bundles,
    ledger: Annotated[Path, typer.Option(help="CSV file; each look at the test split adds a line.")] = _DEFAULT.ledger,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; default: all cores. On a busy machine 1 is faster.")
    ] = None,
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    ctx.obj = Places(data=data, cache=cache, runs=runs, bundles=bundles, ledger=ledger)


@app.command()
def splits(ctx: typer.Context, recipe: RecipeName) -> None:
    """Show how the recipe's films are dealt out, by patient; opens no image."""
    loaded = load_recipe(recipe)
    dealt = recipe_splits(loaded, ctx.obj)
    table = Table("part", "films", "patients", "negative", "positive", title=f"splits {dealt.digest[:8]}")
    for name, films in vars(dealt).items():
        hits = sum(f.label == loaded.data.positive for f in films)
        table.add_row(name, *map(str, (len(films), len({f.patient for f in films}), len(films) - hits, hits)))
    Console().print(table)


@app.command()
def fit(ctx: typer.Context, recipe: RecipeName) -> None:
    """Train a recipe to its end. Interrupted? Run the same command: it goes on from the last finished epoch."""
    typer.echo(fit_recipe(load_recipe(recipe), ctx.obj, _console()).path.name)


@app.command()
def evaluate(
    ctx: typer.Context,
    run: RunName,
    split: Annotated[Split, typer.Option(help="hard chooses and fixes thresholds; report and test measure.")],
) -> None:
    """Judge a run. `hard` comes first and fixes calibration and operating points; `test` adds a line to the ledger."""
    figures = evaluate_split(find_run(run, ctx.obj), ctx.obj, split.value)
    for line in summary(figures, split.value):
        typer.echo(line)


@app.command()
def export(ctx: typer.Context, run: RunName, version: Version = None) -> None:
    """Write the run's bundle, verify it, run its golden self-test, and make it the latest."""
    _export(find_run(run, ctx.obj), ctx.obj, version)


@app.command()
def report(ctx: typer.Context, run: RunName) -> None:
    """Write report.html into the run's folder: curves, figures, corruptions, shortcut probes, on one page."""
    _report(find_run(run, ctx.obj), ctx.obj)


@app.command(name="reduced-copies")
def reduced_copies(
    ctx: typer.Context, model: Annotated[str, typer.Argument(help="A bundle (name/version) or a run.")]
) -> None:
    """List how far original and reduced copies of the same film lie apart in logit, worst first; exit 1 above 0.15."""
    if not _reduced(model, ctx.obj):
        raise typer.Exit(1)


@app.command()
def leaderboard(ctx: typer.Context) -> None:
    """All judged runs by their selection figure. The test split plays no part in it."""
    table = Table("run", "selection", "Kermany corrupted", "NIH, clean labels", "validation clean")
    found = []
    for path in ctx.obj.runs.glob("*/figures-hard.json"):
        figures = find_run(str(path.parent), ctx.obj).read_json(path.name)
        found.append((figures["selection"], path.parent.name, figures))
    for selection, name, figures in sorted(found, reverse=True, key=lambda row: row[:2]):
        nih = figures["nih_auroc"].get("nih/clean")
        cells = (selection, figures["kermany_corrupted_auroc"], nih, figures["kermany_auroc"]["clean"])
        table.add_row(name, *("-" if c is None else f"{c:.4f}" for c in cells))
    Console().print(table)


@app.command(name="readme-figures")
def readme_figures(
    ctx: typer.Context,
    bundle: Annotated[str, typer.Argument(help="A bundle, name/version.")],
    readme: Annotated[Path, typer.Option(help="The file with the markers.")] = CHECKOUT / "README.md",
) -> None:
    """Write the bundle's figures between the markers of README.md."""
    verified = BundleStore(ctx.obj.bundles).verify(BundleRef.parse(bundle))
    text = readme.read_text(encoding="utf-8")
    model = model_figures(verified.manifest, verified.digest, ctx.obj.ledger)
    for block, content in (("figures:model", model), ("figures:gate", gate_figures(verified.manifest))):
        text = replace_between_markers(text, block, content)
    readme.write_text(text, encoding="utf-8")
    typer.echo(f"{readme.name}: figures of {bundle}")


@app.command()
def gate(  # noqa: PLR0917  typer passes by name
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="The bundle, name/version, or its folder.")],
    version: Annotated[
        str | None, typer.Option(help="Version of the bundle with the gate; default: the next minor one.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="The bundle's recipe, where it is no longer in training/recipes/.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps of the fit; fewer only to try the command out.")
    ] = GateFit().steps,
    pictures: Annotated[
        int, typer.Option(min=1, help="Pictures of each generated kind to measure on; fewer only to try it out.")
    ] = PICTURES,
) -> None:
    """Fit the gate, measure it on films and pictures it has not seen, write the bundle's next version, make it the latest."""
    parent = BundleRef.parse("/".join(bundle.parts[-2:]))
    made = BundleStore(ctx.obj.bundles).read_manifest(parent).provenance.recipe
    part = replace(GateFit(), steps=steps, drawn=min(GateFit().drawn, steps * GateFit().others))
    version = version or _next_minor(parent)
    done = build_gated(parent, version, load_recipe(recipe or made), ctx.obj, part, _console(), pictures)
    for line in figure_lines(done.figures):
        typer.echo(line)
    typer.echo(f"{done.ref}: verified, digest {done.digest}")


def _next_minor(parent: BundleRef) -> str:
    _, major, minor, _ = parent.order
    return f"{major}.{minor + 1}.0"


@app.command(name="run")
def run_all(ctx: typer.Context, recipe: RecipeName, version: Version = None) -> None:
    """Everything for one recipe: splits, fit, evaluate hard, report and test, export, report.

    A run whose very weights were judged on the test split before is not judged on it again.
    """
    splits(ctx, recipe)
    run = fit_recipe(load_recipe(recipe), ctx.obj, _console())
    for split in Split:
        if split is Split.TEST and _tested(run):
            typer.echo("test: these weights were judged before; see the ledger")
            continue
        for line in summary(evaluate_split(run, ctx.obj, split.value), split.value):
            typer.echo(line)
    _export(run, ctx.obj, version)
    _report(run, ctx.obj)


def _tested(run: Run) -> bool:
    if not (run.path / "figures-test.json").is_file():
        return False
    return bool(run.read_json("figures-test.json")["ledger_row"]["weights_digest"] == run.weights_digest())


def _export(run: Run, places: Places, version: str | None) -> None:
    done = export_run(run, places, version or _next_version(places, run.recipe.name))
    typer.echo(
        f"{done.ref}: verified, {done.size_bytes / 1e6:.1f} MB, digest {done.digest}; "
        f"torch and engine differ by at most {done.difference:.1e}"
    )


def _next_version(places: Places, name: str) -> str:
    versions = [ref.order[1:] for ref in BundleStore(places.bundles).list() if ref.name == name]
    if not versions:
        return "1.0.0"
    major, minor, patch = max(versions)
    return f"{major}.{minor}.{patch + 1}"


def _report(run: Run, places: Places) -> None:
    probe_shortcuts(run, places)
    if (places.data / "originals").is_dir():
        _reduced(run.path.name, places)
    typer.echo(write_report(run))


def _reduced(model: str, places: Places) -> bool:
    """Print the pairs, worst first; True where all are within the limit. A run keeps them."""
    name, spec, engine = model_of(model, places)
    pairs = compare_copies(places.data, spec, engine)
    for pair in pairs[:5]:
        typer.echo(
            f"{pair.difference:.4f}  {pair.logit_original:+.4f} {pair.logit_reduced:+.4f}  {pair.original}  {pair.reduced}"
        )
    worst = pairs[0].difference
    typer.echo(f"{name}: {len(pairs)} pairs, worst difference {worst:.4f} logit, limit {LIMIT}")
    if (places.runs / name / "recipe.json").is_file():
        listed = [{**vars(pair), "difference": pair.difference} for pair in pairs]
        find_run(name, places).write_json("figures-reduced.json", {"limit": LIMIT, "pairs": listed})
    return worst <= LIMIT


def _console() -> Console:
    return Console(stderr=True)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. An expected error is one line on stderr and exit code 1."""
    try:
        return app(arguments)
    except CxrError as error:
        Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, highlight=False)
        raise SystemExit(1) from error
