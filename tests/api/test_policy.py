"""One table decides who may call what; nothing is open but the short list below."""

from __future__ import annotations

import inspect
import typing

import pytest
from fastapi import FastAPI, UploadFile, params
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import BaseRoute, Route

from app.api.policy import POLICIES, UNKNOWN, Body, Match, Policy, Table
from app.domain import Role

OPEN = {
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/static/{asset:path}"),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
}
CLINICAL = {Role.TECHNICIAN, Role.RADIOLOGIST, Role.SERVICE, Role.ADMIN}


def test_only_the_short_list_is_open() -> None:
    assert {route for route, policy in POLICIES.items() if policy.open} == OPEN


def test_roles_are_those_of_the_contract() -> None:
    guarded = {path: set(policy.roles) for (_, path), policy in POLICIES.items() if policy.roles is not None}
    assert guarded == {
        "/predict": CLINICAL,
        "/batch_predict": CLINICAL,
        "/gradcam": CLINICAL,
        "/reports": CLINICAL,
        "/metrics": {Role.MONITOR, Role.ADMIN},
        "/drift_report": {Role.RADIOLOGIST, Role.MONITOR, Role.ADMIN},
    }


def test_every_route_is_in_the_table(shipped: FastAPI) -> None:
    routes = [r for r in shipped.routes if isinstance(r, Route)]
    assert len(routes) == len(shipped.routes), "a mount or a websocket needs a policy of its own"
    there = {(method, route.path) for route in routes for method in route.methods or () if method != "HEAD"}
    assert there == set(POLICIES)


def test_no_route_lets_the_framework_read_a_body(shipped: FastAPI) -> None:
    for route in shipped.routes:
        assert body_parameters(route) == []


def body_parameters(route: BaseRoute) -> list[str]:
    """Names of parameters through which FastAPI would parse (and spool) the body before the route runs."""
    if not isinstance(route, APIRoute):
        return []
    bad = [p.name for p in route.dependant.body_params]
    hints = typing.get_type_hints(route.endpoint, include_extras=True)
    for name, parameter in inspect.signature(route.endpoint).parameters.items():
        kinds = [hints.get(name), parameter.default, *getattr(hints.get(name), "__metadata__", ())]
        if any(kind is UploadFile or isinstance(kind, params.Body | params.Form | params.File) for kind in kinds):
            bad.append(name)
    return bad


def test_the_walk_sees_a_body_parameter() -> None:
    app = FastAPI()

    @app.post("/bad")
    async def bad(file: UploadFile) -> None: ...

    assert "file" in body_parameters(app.routes[-1])


def test_clinical_bodies_and_the_audit() -> None:
    bodies = {path: policy.body for (_, path), policy in POLICIES.items() if policy.body is not Body.NONE}
    assert bodies == {
        "/predict": Body.IMAGE,
        "/batch_predict": Body.BATCH,
        "/gradcam": Body.IMAGE,
        "/reports": Body.IMAGE,
    }
    audited = {path for (_, path), policy in POLICIES.items() if policy.audited}
    assert audited == {"/predict", "/batch_predict", "/gradcam", "/reports", "/drift_report"}


@pytest.mark.parametrize(
    ("method", "path", "template", "known"),
    [
        ("POST", "/predict", "/predict", True),
        ("GET", "/predict", "/predict", False),
        ("GET", "/static/swagger-ui/swagger-ui.css", "/static/{asset:path}", True),
        ("GET", "/static/{asset:path}", "/static/{asset:path}", True),
        ("GET", "/static/", "other", False),
        ("GET", "/static", "other", False),
        ("POST", "/predict/", "other", False),
        ("POST", "//predict", "other", False),
        ("GET", "/health/ready/x", "other", False),
    ],
)
def test_look_up(method: str, path: str, template: str, known: bool) -> None:
    match = Table(POLICIES).find(method, path)
    assert (match.template, match.policy is not None) == (template, known)


def test_a_segment_does_not_cross_a_slash() -> None:
    table = Table({("GET", "/bundles/{name}/x"): Policy(None)})
    assert table.find("GET", "/bundles/a.b/x") == Match("/bundles/{name}/x", Policy(None), ("GET",))
    assert table.find("GET", "/bundles/a/b/x") is UNKNOWN


@given(st.text(max_size=40), st.sampled_from(["GET", "POST", "HEAD", "BREW"]))
def test_the_label_is_always_one_of_ours(path: str, method: str) -> None:
    assert Table(POLICIES).find(method, "/" + path).template in {p for _, p in POLICIES} | {"other"}
