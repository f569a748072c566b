"""GET /metrics and /drift_report over the shipped application."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from app.domain import Role

JPEG = {"Content-Type": "image/jpeg"}


def test_metrics_for_those_who_watch(
    address: str, key: Callable[[Role], str], client: httpx.Client, film: bytes
) -> None:
    client.post("/predict", content=film, headers=JPEG)
    reply = httpx.get(f"{address}/metrics", headers={"Authorization": f"Bearer {key(Role.MONITOR)}"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    for line in (
        r'cxr_http_requests_total{method="POST",route="/predict",status_class="2xx"} \d+',
        r'cxr_predictions_total{bundle="tiny/1.0.0",label="\w+",operating_point="screening"} \d+',
        r"cxr_ready 1.0",
        r"process_resident_memory_bytes \d",
    ):
        assert re.search(f"^{line}", reply.text, re.MULTILINE), line
    for role in (Role.TECHNICIAN, Role.RADIOLOGIST, Role.SERVICE):
        assert httpx.get(f"{address}/metrics", headers={"X-API-Key": key(role)}).status_code == 403


def test_drift_with_too_little_data(client: httpx.Client) -> None:
    reply = client.get("/drift_report?window=24h")
    assert reply.status_code == 200, reply.text
    shown = reply.json()
    assert shown["level"] == "insufficient_data"
    assert shown["bundle"] == "tiny/1.0.0"
    assert shown["minimum"] == 500
    assert {s["name"] for s in shown["statistics"]} >= {"mean", "std", "aspect", "confidence"}
    assert [c["name"] for c in shown["classes"]] == ["normal", "pneumonia"]


def test_drift_as_a_page(client: httpx.Client) -> None:
    reply = client.get("/drift_report", headers={"Accept": "text/html,*/*;q=0.8"})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "style-src 'sha256-" in reply.headers["content-security-policy"]
    assert "insufficient data" in reply.text


@pytest.mark.parametrize(
    ("query", "accept", "wanted"),
    [
        ("window=soon", "*/*", (400, "invalid_parameter")),
        ("days=7", "*/*", (400, "malformed_request")),
        ("", "image/png", (406, "not_acceptable")),
    ],
)
def test_drift_problems(client: httpx.Client, query: str, accept: str, wanted: tuple[int, str]) -> None:
    reply = client.get(f"/drift_report?{query}", headers={"Accept": accept})
    assert (reply.status_code, reply.json()["code"]) == wanted


def test_drift_roles(address: str, key: Callable[[Role], str]) -> None:
    allowed = {
        role
        for role in Role
        if httpx.get(f"{address}/drift_report", headers={"X-API-Key": key(role)}).status_code != 403
    }
    assert allowed == {Role.RADIOLOGIST, Role.MONITOR, Role.ADMIN}
