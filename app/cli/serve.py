"""`cxr serve`: the HTTP service on uvicorn, one process."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated

import structlog
import typer
import uvicorn

from app import logs
from app.cli.connection import HTTP_PROTOCOL
from app.cli.session import read_settings
from app.main import create_app
from app.records import Records
from app.settings import Settings


class _Server(uvicorn.Server):
    """Turns not-ready the moment a stop is asked for, so that a balancer sees it while requests in flight finish."""

    def __init__(self, config: uvicorn.Config, leaving: Callable[[], None]) -> None:
        super().__init__(config)
        self._leaving = leaving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._leaving()
        super().handle_exit(sig, frame)


def _first_admin_key(records: Records, settings: Settings) -> None:
    """On a database without any key: make an admin key, for the eyes at a terminal or a private file, never for a log."""
    secret = records.keys.ensure_admin_key()
    if secret is None:
        return
    if sys.stderr.isatty():
        typer.echo(f"First start. Admin key, shown this once: {secret}", err=True)
        return
    path = settings.state_dir / "admin.key"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, 0o600)
        file.write(f"{secret}\n")
    typer.echo(f"First start. The admin key is in {path}; move it to a safe place and delete the file.", err=True)


def _warn_of_unknown_settings() -> None:
    """A setting with a misspelt name would change nothing and say nothing."""
    known = {f"CXR_{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.upper().startswith("CXR_") and name.upper() not in known)
    if unknown:
        structlog.get_logger("cxr.serve").warning("unknown_settings", names=unknown)


def _asked_to_stop(_signal: int, _frame: FrameType | None) -> None:
    """A stop that was asked for is a success."""
    raise SystemExit(0)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (CXR_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (CXR_PORT).", min=0, max=65_535)] = None,
) -> None:
    """Start the service with the live bundle. Fails loudly when bundle, key ring or database are not sound.

    The first start on an empty database makes one admin key: shown on a terminal, else written to admin.key (0600) in the
    state folder.
    """
    settings = read_settings()
    settings = settings.model_copy(update={k: v for k, v in {"host": host, "port": port}.items() if v is not None})
    logs.configure(settings.log_level)
    _warn_of_unknown_settings()
    app = create_app(settings)
    _first_admin_key(app.state.records, settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=HTTP_PROTOCOL,
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
        timeout_keep_alive=30,
        lifespan="on",
    )
    signal.signal(signal.SIGTERM, _asked_to_stop)  # uvicorn raises the signal once more when all is closed
    server = _Server(config, leaving=app.state.service.begin_drain)
    server.run()
    if not server.started:
        raise typer.Exit(3)
