"""`cxr`: the command line of the service. Each group of commands stands in a module of its name."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from app.cli import audit, bundles, conformance, engines, gateway, keyring, keys, predict, score, serve
from app.errors import CxrError

cli = typer.Typer(
    name="cxr",
    help="Chest X-ray triage: serve it, ask it, manage its keys, bundles and audit trail. Settings are CXR_ variables (README).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
cli.command("serve")(serve.serve)
cli.command("predict")(predict.predict)
cli.command("score")(score.score)
cli.command("phantom")(predict.write_phantom)
cli.command("conformance")(conformance.conformance)
cli.add_typer(keys.group, name="keys")
cli.add_typer(bundles.group, name="bundles")
cli.add_typer(engines.group, name="engines")
cli.add_typer(audit.group, name="audit")
cli.add_typer(keyring.group, name="keyring")
cli.add_typer(gateway.group, name="gateway")


def main() -> None:
    """Entry point: an error of ours, or of a file, is one line on standard error and exit status 1."""
    try:
        cli()
    except CxrError as error:
        _fail(str(error))
    except OSError as error:  # a path that was given cannot be read or written
        _fail(f"{error.filename or 'input or output'}: {error.strerror}")


def _fail(message: str) -> NoReturn:
    print(f"cxr: {message}", file=sys.stderr)  # noqa: T201 - the one place that prints an error for people
    sys.exit(1)
