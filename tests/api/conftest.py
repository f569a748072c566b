"""The shipped application over a tiny but real bundle: in this process, behind the shipped server on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from app.cli.connection import HTTP_PROTOCOL
from app.domain import Role
from app.imaging.phantom import encode_jpeg, phantom
from app.main import create_app
from app.settings import Settings
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api-state")


@pytest.fixture(scope="session")
def shipped(state: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    bundles = tmp_path_factory.mktemp("api-bundles")
    (bundles / "latest").write_text(f"{make_tiny_bundle(bundles)}\n")
    return create_app(Settings(state_dir=state, bundles_dir=bundles, rate_limit_per_minute=1_000_000))


@pytest.fixture(scope="session")
def address(shipped: FastAPI) -> Iterator[str]:
    """Where the application listens."""
    with listening(shipped) as found:
        yield found


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """An application behind the shipped server on loopback; its address."""
    config = uvicorn.Config(app, port=0, http=HTTP_PROTOCOL, log_config=None, server_header=False, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def key(address: str, shipped: FastAPI) -> Callable[[Role], str]:
    """A key of a role, made once."""
    made: dict[Role, str] = {}

    def of(role: Role) -> str:
        if role not in made:
            made[role] = shipped.state.records.keys.create(role, f"test-{role}")
        return made[role]

    return of


@pytest.fixture(scope="session")
def client(address: str, key: Callable[[Role], str]) -> Iterator[httpx.Client]:
    """Asks with an admin's key."""
    with httpx.Client(base_url=address, headers={"X-API-Key": key(Role.ADMIN)}, timeout=60) as made:
        yield made


@pytest.fixture(scope="session")
def film() -> bytes:
    return encode_jpeg(phantom(7))
