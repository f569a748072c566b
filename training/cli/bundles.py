"""Commands over bundles: the intended-use gate, precision variants, how far copies of a film lie apart, the figures of the README."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from app.bundle.store import BundleRef, BundleStore
from app.errors import ConfigurationError
from training.cli.shared import console
from training.gate.build import build_gated
from training.gate.fit import GateFit
from training.gate.measure import PICTURES, figure_lines
from training.judging.reduced import LIMIT, compare_copies, model_of
from training.places import CHECKOUT, Places
from training.publishing.readme import write_readme_figures
from training.publishing.variants import CALIBRATION, Plan, add_variants, variant_lines, with_bounds
from training.recipe import load_recipe
from training.runs import find_run


def register(app: typer.Typer) -> None:
    app.command(name="reduced-copies")(reduced_copies)
    app.command(name="readme-figures")(readme_figures)
    app.command()(gate)
    app.command()(variants)


def reduced_copies(
    ctx: typer.Context, model: Annotated[str, typer.Argument(help="A bundle (name/version) or a run.")]
) -> None:
    """List how far original and reduced copies of the same film lie apart in logit, worst first; exit 1 above 0.15."""
    if not reduced_pairs(model, ctx.obj):
        raise typer.Exit(1)


def readme_figures(
    ctx: typer.Context,
    bundle: Annotated[str, typer.Argument(help="A bundle, name/version.")],
    readme: Annotated[Path, typer.Option(help="The file with the markers.")] = CHECKOUT / "README.md",
) -> None:
    """Write the bundle's figures and those of the recorded runs between the markers of README.md."""
    verified = BundleStore(ctx.obj.bundles).verify(BundleRef.parse(bundle))
    write_readme_figures(verified.manifest, verified.digest, ctx.obj.ledger, readme)
    typer.echo(f"{readme.name}: figures of {bundle}")


def gate(  # noqa: PLR0917  typer passes by name
    ctx: typer.Context,
    bundle: Annotated[
        Path,
        typer.Argument(help="The bundle, name/version, or its folder; or a run: the bundle that it was exported as."),
    ],
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
    parent = BundleRef.parse(
        "/".join(bundle.parts[-2:]) if len(bundle.parts) > 1 else _exported_as(bundle.name, ctx.obj)
    )
    made = BundleStore(ctx.obj.bundles).read_manifest(parent).provenance.recipe
    part = replace(GateFit(), steps=steps, drawn=min(GateFit().drawn, steps * GateFit().others))
    version = version or _next_minor(parent)
    done = build_gated(parent, version, load_recipe(recipe or made), ctx.obj, part, console(), pictures)
    for line in figure_lines(done.figures):
        typer.echo(line)
    typer.echo(f"{done.ref}: verified, digest {done.digest}")


def _exported_as(run: str, places: Places) -> str:
    """The bundle of a run. Raises ConfigurationError for an unknown run, or one that was not exported."""
    found = find_run(run, places)
    exported = found.optional_json("exported.json")
    if exported is None:
        raise ConfigurationError("step_missing", f"{found.path.name} was not exported; give a bundle, name/version")
    return str(exported["bundle"])


def variants(  # noqa: PLR0917  typer passes by name
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="The bundle, name/version, or its folder.")],
    version: Annotated[
        str | None, typer.Option(help="Version of the bundle with the variants; default: the next minor one.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="The bundle's recipe, where it is no longer in training/recipes/.")
    ] = None,
    calibration: Annotated[
        int, typer.Option(min=1, help="Training films that the ranges of int8 are taken from.")
    ] = CALIBRATION,
    films: Annotated[
        int | None, typer.Option(min=1, help="Films of each part, only to try it out: nothing is written.")
    ] = None,
    bound: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRECISION.NAME=VALUE", help="Another bound: int8.flips=0.01; names: logit, flips, auroc_loss."
        ),
    ] = None,
) -> None:
    """Quantise the network, measure other engines and precisions beside the reference, write the bundle's next version."""
    parent = BundleRef.parse("/".join(bundle.parts[-2:]))
    made = BundleStore(ctx.obj.bundles).read_manifest(parent).provenance.recipe
    plan = Plan(version or _next_minor(parent), calibration, films, with_bounds(bound or ()))
    done = add_variants(parent, load_recipe(recipe or made), ctx.obj, plan, console())
    for line in variant_lines(done):
        typer.echo(line)
    if done.bundle is None:
        typer.echo("a try-out: nothing is written")
    else:
        typer.echo(f"{done.bundle.ref}: verified, digest {done.bundle.digest}")


def _next_minor(parent: BundleRef) -> str:
    _, major, minor, _ = parent.order
    return f"{major}.{minor + 1}.0"


def reduced_pairs(model: str, places: Places) -> bool:
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
