"""`cxr audit`: is the trail whole, and what does it hold about a study?"""

from __future__ import annotations

from typing import Annotated

import typer

from app import logs
from app.cli.session import open_records, read_settings
from app.errors import ConfigurationError
from app.records import verify as verify_records

group = typer.Typer(help="The audit trail.", no_args_is_help=True)


@group.callback()
def _group() -> None:
    """The audit trail."""


@group.command()
def verify() -> None:
    """Check chains, payloads, tables, anchors and the database itself; changes nothing, disturbs no running service.

    Exit status 1 names (chain, seq) of whatever is wrong.
    """
    logs.configure("warning")
    report = verify_records(read_settings())
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    for problem in report.problems:
        where = "" if problem.chain_id is None else f"({problem.chain_id}, {problem.seq}): "
        typer.echo(f"{where}{problem.what}", err=True)
    if not report.ok:
        typer.echo(f"{len(report.problems)} problems in {report.events} events", err=True)
        raise typer.Exit(1)
    typer.echo(f"{report.events} events in {report.chains} chains and {report.predictions} predictions are whole")


@group.command()
def find(
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    instance: Annotated[str | None, typer.Option(help="SOP Instance UID.")] = None,
    patient: Annotated[str | None, typer.Option(help="Patient ID.")] = None,
    issuer: Annotated[str, typer.Option(help="Issuer of Patient ID, where the films have one.")] = "",
) -> None:
    """Events about the DICOM films of a study, an instance or a patient, newest first: chain, seq, time, kind, label.

    The trail holds keyed pseudonyms only; the identifier is turned into one here and is not kept. Exit status 1 if there is none.
    """
    if sum(given is not None for given in (study, instance, patient)) != 1:
        raise ConfigurationError("what_to_find", "give one of --study, --instance and --patient")
    with open_records() as (_, records):
        if study is not None:
            found = records.find_films("study", study)
        elif instance is not None:
            found = records.find_films("instance", instance)
        else:
            found = records.find_films("patient", issuer, patient or "")
    for film in found:
        typer.echo(f"{film.chain_id} {film.seq} {film.at} {film.kind} {film.label or '-'}")
    if not found:
        typer.echo("nothing was recorded of it", err=True)
        raise typer.Exit(1)
