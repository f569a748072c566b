"""`cxr bundles`: what is there, whether it is sound, which one serves."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from app.bundle.store import BundleRef, BundleStore
from app.cli.session import open_records, operator, read_settings
from app.engines import admitted
from app.errors import BundleError, ConfigurationError
from app.live import ACTIVATE_SO, acceptance, check_bundle, refuse_failed_gate

group = typer.Typer(help="Model bundles: list, show, verify, activate.", no_args_is_help=True)
RefArgument = Annotated[str, typer.Argument(metavar="NAME/VERSION", help="As `cxr bundles list` shows it.")]


@group.command("list")
def list_bundles() -> None:
    """All bundles in CXR_BUNDLES_DIR; the live one is marked with *, and what is not for patients is labelled."""
    with open_records() as (settings, records):
        live, store = records.history.live(), BundleStore(settings.bundles_dir)
        for ref in store.list():
            mark = "*" if live is not None and (live.name, live.version) == (ref.name, ref.version) else " "
            typer.echo(f"{mark} {ref}{_note(store, ref)}")


def _note(store: BundleStore, ref: BundleRef) -> str:
    """What stands behind a bundle's name in the list; a manifest that cannot be read is named, not judged: `verify` does that."""
    try:
        label = store.read_manifest(ref).research_label
    except BundleError as error:
        return f"  ({error.code})"
    return f"  ({label})" if label else ""


@group.command()
def show(bundle: RefArgument) -> None:
    """The manifest as JSON, without checking the other files."""
    typer.echo(
        BundleStore(read_settings().bundles_dir).read_manifest(BundleRef.parse(bundle)).model_dump_json(indent=2)
    )


@group.command()
def verify(bundle: RefArgument) -> None:
    """All that loading checks: schema, hashes, tensors, network, head, golden answers. Exit status 1 names what is wrong.

    Golden answers are asked of every engine that the bundle admits; one that is missing on this machine is named. A bundle whose promotion
    gate failed may be sound; its failed lines are listed.
    """
    verified, refused = check_bundle(BundleStore(read_settings().bundles_dir), BundleRef.parse(bundle))
    manifest = verified.manifest
    typer.echo(f"{verified.ref} is sound, digest {verified.digest}")
    for way in admitted(manifest):
        typer.echo(
            f"{way.name}: {f'not tried here, {refused[way.name]}' if way.name in refused else 'golden answers given'}"
        )
    if manifest.research_label is not None:
        typer.echo(f"not for patients: {manifest.research_label}")
    for line in manifest.promotion.lines if manifest.promotion else ():
        if not line.passed:
            typer.echo(f"failed: {line.name}: wanted {line.wanted}, measured {line.measured}")


@group.command()
def activate(
    bundle: RefArgument,
    wait_s: Annotated[float, typer.Option("--wait-s", help="How long to wait for running services, seconds.")] = 30,
    accept_failed_gate: Annotated[
        bool,
        typer.Option(
            "--accept-failed-gate", help="Serve it although its promotion gate failed; recorded with your name."
        ),
    ] = False,
) -> None:
    """Ask the running services to serve this bundle, and wait for the outcome. An earlier one is how a bundle is rolled back.

    Without a running service the request stays in the history and the next start takes it up.
    """
    ref = BundleRef.parse(bundle)
    with open_records() as (settings, records):
        if settings.bundle is not None:
            raise ConfigurationError("pinned", f"CXR_BUNDLE pins {settings.bundle}")
        verified = BundleStore(settings.bundles_dir).verify(ref)
        if not accept_failed_gate:
            refuse_failed_gate(verified.manifest, ACTIVATE_SO)
        request = records.history.request_activation(
            ref, verified.digest, operator(), reason=acceptance(verified.manifest)
        )
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            outcomes = records.history.outcomes(request)
            failed = [o.reason for o in outcomes if o.event == "failed"]
            if failed:
                raise BundleError("activation_failed", f"{ref}: {failed[0]}")
            if outcomes:
                typer.echo(f"{ref} is live, digest {verified.digest}")
                return
            time.sleep(0.1)
    raise BundleError("no_answer", f"no service answered within {wait_s:g} s; the next start will take the request up")
