"""`cxr keys`: make, list, revoke and import API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.session import open_records
from app.domain import Lane, Role

group = typer.Typer(
    help="API keys. Only a keyed hash is stored; a lost key cannot be shown again.", no_args_is_help=True
)


@group.command()
def create(
    role: Annotated[Role, typer.Option(help="What the key may do (README, API).")],
    name: Annotated[str, typer.Option(help="Who will use it, for the audit trail: a system, not a person.")],
    lane: Annotated[
        Lane, typer.Option(help="How urgent its requests are where they carry no X-Priority: stat, routine, bulk.")
    ] = "routine",
) -> None:
    """Make a key. The key alone goes to standard output, once."""
    with open_records() as (_, records):
        secret = records.keys.create(role, name, lane=lane)
    typer.echo(secret)
    typer.echo("This key is not shown again.", err=True)


@group.command("list")
def list_keys() -> None:
    """All keys: public id, role, lane, when made, state, name."""
    with open_records() as (_, records):
        for key in records.keys.list():
            state = f"revoked {key.revoked_at[:19]}" if key.revoked_at else "active"
            typer.echo(f"{key.id}  {key.role:<12} {key.lane:<8} {key.at[:19]}  {state:<10} {key.name}")


@group.command()
def revoke(key_id: Annotated[str, typer.Argument(help="Public id, the part after `cxr_`.")]) -> None:
    """Revoke a key. Running services stop taking it within seconds."""
    with open_records() as (_, records):
        records.keys.revoke(key_id)
    typer.echo(f"{key_id} revoked", err=True)


@group.command("import")
def import_keys(
    file: Annotated[
        Path,
        typer.Option(help="Lines `role name key [lane]`; keys made elsewhere in this service's format.", exists=True),
    ],
) -> None:
    """Take over keys made elsewhere, for instance by an init container. Keys already known are left as they are."""
    with open_records() as (_, records):
        taken = records.keys.import_file(file)
    typer.echo(f"{taken} keys imported", err=True)
