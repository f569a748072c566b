"""`cxr serve`: the HTTP service on uvicorn, one process."""

from __future__ import annotations

from types import FrameType
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from app import logs
from app.main import create_app
from app.settings import Settings


class _Server(uvicorn.Server):
    """Turns not-ready the moment a stop is asked for, so that a balancer sees it while requests in flight finish."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.service.begin_drain()
        super().handle_exit(sig, frame)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (CXR_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (CXR_PORT).")] = None,
) -> None:
    """Start the service with the live bundle. Fails loudly when bundle, key ring or database are not sound.

    The first start on an empty database makes one admin key: shown on a terminal, else written to admin.key (0600) in the
    state folder.
    """
    settings = Settings()
    settings = settings.model_copy(update={k: v for k, v in {"host": host, "port": port}.items() if v is not None})
    logs.configure(settings.log_level)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="httptools",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_s),
        timeout_keep_alive=30,
        lifespan="on",
    )
    server = _Server(config, app)
    server.run()
    if not server.started:
        raise typer.Exit(3)
