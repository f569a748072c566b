"""`cxr keyring`: the secrets behind the trail and the keys."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.session import open_records, operator
from app.records import AuditEvent, KeyRing
from app.records.keyring import PURPOSES, Purpose
from app.settings import Settings

group = typer.Typer(
    help="The key ring: audit MAC, pseudonyms, pepper, sealing. Never shows a secret.", no_args_is_help=True
)


@group.command()
def show() -> None:
    """Purposes and the ids of the keys in use."""
    with open_records() as (settings, _):
        ring = _ring(settings)
    for purpose in PURPOSES:
        typer.echo(f"{purpose:<10} {ring.current(purpose)}")


@group.command()
def rotate(
    purpose: Annotated[Purpose, typer.Argument(help="What the new key is for.")],
) -> None:
    """Make a new key for a purpose; the old one stays for what it already signed. Restart running services afterwards."""
    with open_records() as (settings, records):
        made = _ring(settings).rotate(purpose).current(purpose)
        records.record_now(
            AuditEvent("keyring_rotated", None, {"purpose": purpose, "ring_key": made, "who": operator()})
        )
    typer.echo(f"{purpose} {made}")


def _ring(settings: Settings) -> KeyRing:
    return KeyRing.open(settings.secrets_path / "keyring.json", create=False)
