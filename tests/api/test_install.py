"""What `install` puts together, and what it refuses to start with."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.api.install import _check_routes, routes_of
from app.api.policy import POLICIES
from app.errors import ConfigurationError
from app.main import create_app
from app.settings import Settings
from tests.support.asgi import scope_of, tell
from tests.support.tiny_bundle import make_tiny_bundle


def test_a_route_without_a_policy_does_not_start(shipped: FastAPI) -> None:
    bare = FastAPI(openapi_url=None)

    @bare.get("/forgotten")
    async def forgotten() -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        _check_routes(bare)
    assert "GET /forgotten" in str(caught.value)
    assert "POST /predict" in str(caught.value)
    assert routes_of(shipped) - {("HEAD", "/openapi.json")} == set(POLICIES)


def test_the_boundary_is_around_everything(shipped: FastAPI) -> None:
    """Asked of the application itself: without a key there is nothing but the open routes."""

    async def statuses() -> dict[str, int]:
        asked = [*(path for _, path in POLICIES), "/redoc", "/docs/oauth2-redirect", "/favicon.ico", "/.env"]
        return {
            path: (await tell(shipped, scope_of("GET", path.replace("{asset:path}", "docs.js")))).status
            for path in asked
        }

    found = asyncio.run(statuses())
    closed = {path for path, status in found.items() if status == 401}
    guarded = {path for (_, path), policy in POLICIES.items() if not policy.open}
    assert closed == guarded | {"/redoc", "/docs/oauth2-redirect", "/favicon.ico", "/.env"}


def test_the_document_is_made_at_start(shipped: FastAPI) -> None:
    assert shipped.openapi() is shipped.openapi()
    told = asyncio.run(tell(shipped, scope_of("GET", "/openapi.json")))
    assert json.loads(told.body)["info"]["title"] == "cxr-triage"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_decoders_start_with_the_service_and_end_with_it(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    make_tiny_bundle(bundles, latest=True)
    app = create_app(Settings(state_dir=tmp_path / "state", bundles_dir=bundles, workers=2))
    pool = app.state.service._limits.decoder
    assert pool._children == set()  # nothing runs before the start

    async def live() -> list[Path]:
        async with app.router.lifespan_context(app):
            await asyncio.to_thread(wait_until, lambda: len(pool._children) == 2)
            running = [Path(f"/proc/{child.pid}") for child in pool._children]
            assert all(process.exists() for process in running)
            return running

    assert not [process for process in asyncio.run(live()) if process.exists()]
