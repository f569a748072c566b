"""`cxr gateway`: the process between a PACS and the service, and what an operator does with its queues."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
import uvicorn

from app import logs
from app.cli.connection import HTTP_PROTOCOL
from app.cli.session import read_settings
from app.errors import ConfigurationError
from app.settings import Settings

if TYPE_CHECKING:  # the gateway's libraries are the extra `dimse`: every other command works without them
    from app.gateway.config import GatewayConfig
    from app.gateway.core import Gateway
    from app.gateway.server import GatewayServer

log = structlog.get_logger("cxr.gateway")

HTTP_DRAIN_S = 10
HELP = r"""Take films from a PACS (C-STORE, STOW-RS), have the service judge them, deliver the results. Needs the extra `dimse`.

CXR_GATEWAY_CONFIG or --config names a TOML file: \[dimse] who may send and where it listens, \[stow] the same for STOW-RS, \[service]
whom to ask, \[study] how long to wait, \[\[select]] what is judged, \[\[destination]] who gets what. deploy/orthanc/gateway.toml is an
example; `cxr gateway check-config` says what is wrong with a file. Queue and key ring are in CXR_STATE_DIR and CXR_SECRETS_DIR.
"""
group = typer.Typer(help=HELP, no_args_is_help=True)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file (CXR_GATEWAY_CONFIG).", exists=True, dir_okay=False)
]


@group.command()
def run(config: ConfigOption = None) -> None:
    """Run the gateway until SIGTERM or SIGINT. One process for one state folder."""
    settings = read_settings()
    logs.configure(settings.log_level)
    threading.excepthook = say_only_what_kind
    server = _server(settings, _config(settings, config))
    try:
        server.start()
        log.info("gateway_ready", dicom_port=server.scp.port if server.scp else None)
        _serve_until_asked_to_stop(server)
    finally:
        server.stop()
        log.info("gateway_stopped")


@group.command("check-config")
def check_config(config: ConfigOption = None) -> None:
    """Read the file and the secrets it names, and say in one line what it comes to. Exit status 1 names each wrong key."""
    settings = read_settings()
    read = _config(settings, config)
    from app.gateway.config import read_secret  # noqa: PLC0415 - the extra

    for path in _secret_files(read):
        read_secret(path)
    peers = len(read.dimse.peers) if read.dimse else 0
    names = ", ".join(f"{d.name} ({d.kind}: {', '.join(d.objects)})" for d in read.destination)
    typer.echo(f"sound: {peers} peers, {len(read.select)} selection rules, destinations {names}")


@group.command()
def status(config: ConfigOption = None) -> None:
    """Films by state, and the queue of each destination."""
    found = _opened(config).status()
    films = ", ".join(f"{count} {state}" for state, count in sorted(found.films.items()) if count) or "none"
    typer.echo(f"films: {films}; oldest without a judgement {found.oldest_s:.0f} s")
    for code, count in sorted(found.refusals.items()):
        typer.echo(f"refused: {count} {code}")
    if found.judge_code is not None:
        typer.echo(f"judging fails: {found.judge_code}")
    for name, queue in found.queues.items():
        trouble = "" if queue.code is None else f"; last try: {queue.code}"
        typer.echo(
            f"{name}: {queue.pending} pending (oldest {queue.oldest_s:.0f} s), {queue.delivered} delivered, "
            f"{queue.dead} dead{trouble}"
        )
    typer.echo(f"spool: {found.used_bytes} bytes")


@group.command()
def dead(config: ConfigOption = None) -> None:
    """What was given up: id, destination, kind, reason, tries, seconds since the last one."""
    for letter in _opened(config).dead():
        where = "service" if letter.destination is None else f"{letter.destination}  {letter.kind}"
        typer.echo(f"{letter.id}  {where}  {letter.code}  {letter.attempts}  {letter.since_s:.0f}")


@group.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="As `cxr gateway dead` shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    config: ConfigOption = None,
) -> None:
    """Try dead letters again. A running gateway notices within a second."""
    if bool(ids) == everything:
        raise typer.BadParameter("name dead letters, or say --all")
    typer.echo(f"{_opened(config).replay(None if everything else ids)} replayed", err=True)


def _serve_until_asked_to_stop(server: GatewayServer) -> None:
    # a pipe: a handler that runs while this thread is about to wait for an Event would wait for that Event's own lock
    asked, ask = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(ask, b"."))
    if server.stow is None:
        os.read(asked, 1)
        return
    http = uvicorn.Server(
        uvicorn.Config(
            server.stow.app,
            host=server.stow_address[0],
            port=server.stow_address[1],
            http=HTTP_PROTOCOL,
            loop="uvloop",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=HTTP_DRAIN_S,
            timeout_keep_alive=30,
            lifespan="off",
        )
    )
    http.run()  # takes the two signals, and raises them once more when all is closed
    if not http.started:
        raise typer.Exit(3)


def say_only_what_kind(hook: threading.ExceptHookArgs) -> None:
    """An error in a thread of a library: its text and its traceback can quote a film."""
    log.error("thread_died", error=hook.exc_type.__name__, thread=hook.thread.name if hook.thread else None)


def _config(settings: Settings, path: Path | None) -> GatewayConfig:
    try:
        from app.gateway.config import GatewayConfig  # noqa: PLC0415 - the extra
        from app.gateway.core import Gateway as _  # noqa: PLC0415, F401 - does all of it import?
    except ModuleNotFoundError as error:
        raise ConfigurationError("missing_extra", f"install cxr-triage[dimse]; {error.name} is missing") from None
    found = path or settings.gateway_config
    if found is None:
        raise ConfigurationError("gateway_config", "name the TOML file by --config or CXR_GATEWAY_CONFIG")
    return GatewayConfig.load(found)


def _server(settings: Settings, config: GatewayConfig) -> GatewayServer:
    from app.gateway.server import GatewayServer  # noqa: PLC0415 - the extra

    return GatewayServer(settings, config)


def _opened(path: Path | None) -> Gateway:
    """The queues of a gateway that may be running; nothing is started."""
    settings = read_settings()
    logs.configure("warning")
    config = _config(settings, path)
    from app.gateway.core import Gateway  # noqa: PLC0415 - the extra

    return Gateway(settings, config)


def _secret_files(config: GatewayConfig) -> list[Path]:
    files = [config.service.key_file]
    if config.stow is not None:
        files.append(config.stow.token_file)
    for destination in config.destination:
        for name in ("token_file", "secret_file"):
            path = getattr(destination, name, None)
            if path is not None:
                files.append(path)
    return files
