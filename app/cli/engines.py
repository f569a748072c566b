"""`cxr engines`: in which ways a bundle's network can run on this machine, how fast, and which of them serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from app.bundle.manifest import REFERENCE_VARIANT, Variant
from app.bundle.store import BundleRef, BundleStore, VerifiedBundle
from app.cli.session import open_records, operator
from app.engines import AUTO, Engines, named
from app.errors import BundleError, ConfigurationError
from app.inference.cores import usable_cores
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.records import EngineChoice, Records
from app.records.choices import EVERYWHERE
from app.settings import Settings

group = typer.Typer(help="Engines of a bundle: list, measure, choose.", no_args_is_help=True)
BundleOption = Annotated[str | None, typer.Option("--bundle", metavar="NAME/VERSION", help="Default: the live one.")]


@dataclass(frozen=True)
class _Session:
    settings: Settings
    records: Records
    bundle: VerifiedBundle
    engines: Engines
    gate: Engine | None


@contextmanager
def _session(name: str | None) -> Iterator[_Session]:
    with open_records() as (settings, records):
        bundle = BundleStore(settings.bundles_dir).verify(_ref(name, settings, records))
        engines = Engines(
            AUTO,
            workers=settings.workers or usable_cores(),
            cache_dir=settings.engine_cache,
            choices=records.choices,
        )
        gate = OnnxRuntimeEngine(bundle.gate.network) if bundle.gate is not None else None
        yield _Session(settings, records, bundle, engines, gate)


def _ref(name: str | None, settings: Settings, records: Records) -> BundleRef:
    if name is not None or settings.bundle is not None:
        return BundleRef.parse(name or settings.bundle or "")
    live = records.history.live()
    if live is not None:
        return BundleRef(live.name, live.version)
    latest = BundleStore(settings.bundles_dir).latest()
    if latest is None:
        raise BundleError("bundle_not_found", "no bundle is live; name one with --bundle")
    return latest


@group.command("list")
def list_engines(bundle: BundleOption = None) -> None:
    """What the bundle can be served with, and what that costs; the one that serves here is marked with *."""
    with _session(bundle) as session:
        manifest, choice = session.bundle.manifest, session.engines.newest(session.bundle.digest)
        wanted = session.settings.engine
        serving = wanted if wanted != AUTO else (choice.variant if choice is not None else None)
        typer.echo(f"{session.bundle.ref} on {session.engines.machine}")
        for name, words in [(REFERENCE_VARIANT, "reference"), *((v.name, _words(v)) for v in manifest.variants)]:
            ms = choice.measured.get(name) if choice is not None else None
            figure = f", {ms:.1f} ms a film here" if ms is not None else ""
            typer.echo(f"{'*' if name == serving else ' '} {name}: {words}{figure}")
        if wanted != AUTO:
            typer.echo(f"CXR_ENGINE={wanted} decides.")
        elif choice is not None:
            batch = f", films in batches of up to {choice.batch}" if choice.batch > 1 else ""
            typer.echo(f"chosen {choice.at} by {choice.who}: {choice.variant}{batch}")


def _words(variant: Variant) -> str:
    measured = variant.measured
    state = "admitted" if variant.admitted else "not admitted"
    return (
        f"{state}; on {measured.n} films of {measured.data}: logits moved by at most {measured.logit_shift_max:.3g}, "
        f"at most {max(measured.flips.values())} decisions changed"
    )


@group.command()
def measure(
    bundle: BundleOption = None,
    choose_it: Annotated[
        bool, typer.Option("--choose", help="Let the running services follow; recorded with your name.")
    ] = False,
) -> None:
    """Time every admitted engine on this machine, beside each other, as the first start does. Best on a machine at rest."""
    with _session(bundle) as session:
        found = session.engines.measure(session.bundle, session.gate)
        for name, ms in sorted(found.ms.items(), key=lambda item: item[1]):
            typer.echo(f"{name}: {ms:.2f} ms a film")
        for name, reason in found.refused.items():
            typer.echo(f"{name}: refused, {reason}", err=True)
        batch = f", films in batches of up to {found.chosen.batch}" if found.chosen.batch > 1 else ""
        typer.echo(f"fastest: {found.chosen.name}{batch}")
        if choose_it and session.engines.keep(session.bundle.digest, found, operator()) is None:
            raise ConfigurationError("records", "the choice could not be recorded")


@group.command()
def choose(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="As `cxr engines list` shows it.")],
    bundle: BundleOption = None,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="For every machine on this database, not only those like this one.")
    ] = False,
    batch: Annotated[
        int,
        typer.Option(min=1, max=64, help="Most films of several requests in one call; `measure` says where that pays."),
    ] = 1,
) -> None:
    """Let the running services serve the bundle with this engine, after it passed the golden self-test here; recorded with your name.

    Services started with another CXR_ENGINE than `auto` do not follow.
    """
    with _session(bundle) as session:
        session.engines.build(session.bundle, named(session.bundle.manifest, variant), session.gate, batch=batch)
        machine = EVERYWHERE if everywhere else session.engines.machine
        session.records.choices.choose(EngineChoice(session.bundle.digest, machine, variant, batch, {}, operator()))
        typer.echo(f"{session.bundle.ref} is served with {variant} on {'every machine' if everywhere else machine}")
