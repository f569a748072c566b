"""`cxr audit`: is the trail whole?"""

from __future__ import annotations

import typer

from app import logs
from app.cli.session import read_settings
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
