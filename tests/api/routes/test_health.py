"""The open routes: alive, ready, and why not."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from app.service import Readiness, TriageService
from tests.support.asgi import Told, scope_of, tell


def get(app: FastAPI, path: str) -> Told:
    return asyncio.run(tell(app, scope_of("GET", path)))


def test_ready(address: str) -> None:
    for path in ("/health", "/health/ready"):
        reply = httpx.get(f"{address}{path}")
        assert reply.status_code == 200
        shown = reply.json()
        assert (shown["ready"], shown["reason"], shown["bundle"]) == (True, None, "tiny/1.0.0")
        assert shown["engine"]["name"] == "onnxruntime"
        assert shown["engine"]["threads"] >= 1
    assert httpx.get(f"{address}/health/live").json() == {"status": "alive"}


def test_not_ready_says_why(address: str, shipped: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TriageService, "readiness", lambda _: Readiness(False, "the audit store is not writable"))
    told = get(shipped, "/health/ready")
    assert (told.status, told.json()["code"]) == (503, "not_ready")
    assert "the audit store is not writable" in told.json()["detail"]
    assert int(told.headers["retry-after"]) >= 1
    shown = get(shipped, "/health")
    assert (shown.status, shown.json()["ready"], shown.json()["reason"]) == (
        200,
        False,
        "the audit store is not writable",
    )
    assert shown.json()["bundle"] == "tiny/1.0.0"
    assert get(shipped, "/health/live").status == 200


def test_without_a_bundle(address: str, shipped: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped.state.service._bundles, "current", None)
    assert get(shipped, "/health/ready").status == 503
    shown = get(shipped, "/health").json()
    assert (shown["ready"], shown["bundle"], shown["engine"]) == (False, None, None)
