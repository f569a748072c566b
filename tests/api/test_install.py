"""What `install` puts together, and what it refuses to start with."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi import FastAPI

from app.api.install import _check_routes, routes_of
from app.api.policy import POLICIES
from app.errors import ConfigurationError
from tests.support.asgi import scope_of, tell


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
