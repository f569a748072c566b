"""`cxr bundles`: what is there, whether it is sound, which one serves."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from app.bundle.store import BundleRef, BundleStore
from app.cli.session import open_records, operator, read_settings
from app.errors import BundleError, ConfigurationError
from app.live import load_bundle

group = typer.Typer(help="Model bundles: list, show, verify, activate.", no_args_is_help=True)
RefArgument = Annotated[str, typer.Argument(metavar="NAME/VERSION", help="As `cxr bundles list` shows it.")]


@group.command("list")
def list_bundles() -> None:
    """All bundles in CXR_BUNDLES_DIR; the live one is marked with *."""
    with open_records() as (settings, records):
        live = records.history.live()
        for ref in BundleStore(settings.bundles_dir).list():
            mark = "*" if live is not None and (live.name, live.version) == (ref.name, ref.version) else " "
            typer.echo(f"{mark} {ref}")


@group.command()
def show(bundle: RefArgument) -> None:
    """The manifest as JSON, without checking the other files."""
    typer.echo(
        BundleStore(read_settings().bundles_dir).read_manifest(BundleRef.parse(bundle)).model_dump_json(indent=2)
    )


@group.command()
def verify(bundle: RefArgument) -> None:
    """All that loading checks: schema, hashes, tensors, network, head, golden answers. Exit status 1 names what is wrong."""
    loaded = load_bundle(BundleStore(read_settings().bundles_dir), BundleRef.parse(bundle))
    typer.echo(f"{loaded.ref} is sound, digest {loaded.bundle.digest}")


@group.command()
def activate(
    bundle: RefArgument,
    wait_s: Annotated[float, typer.Option("--wait-s", help="How long to wait for running services, seconds.")] = 30,
) -> None:
    """Ask the running services to serve this bundle, and wait for the outcome.

    Without a running service the request stays in the history and the next start takes it up.
    """
    ref = BundleRef.parse(bundle)
    with open_records() as (settings, records):
        if settings.bundle is not None:
            raise ConfigurationError("pinned", f"CXR_BUNDLE pins {settings.bundle}")
        verified = BundleStore(settings.bundles_dir).verify(ref)
        request = records.history.request_activation(ref, verified.digest, operator())
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
