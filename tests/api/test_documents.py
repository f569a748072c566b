"""The OpenAPI document: complete, true to the tables, and without what the framework would make up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI

from app.api.examples import EXAMPLES
from app.api.policy import POLICIES, Body, Shown
from app.errors import ERROR_TABLE

DOCUMENTED = [
    route
    for route, policy in POLICIES.items()
    if policy.shown is not Shown.ASSET and route[1] not in ("/", "/docs", "/openapi.json")
]


@pytest.fixture(scope="module")
def document(shipped: FastAPI) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(shipped.openapi()))
    return document


def operation(document: dict[str, Any], route: tuple[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][route[1]][route[0].lower()]
    return found


def test_every_documented_route_and_no_other(document: dict[str, Any]) -> None:
    there = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert there == set(DOCUMENTED)


@pytest.mark.parametrize("route", DOCUMENTED, ids=lambda r: f"{r[0]} {r[1]}")
def test_keys_and_roles_come_from_the_policies(document: dict[str, Any], route: tuple[str, str]) -> None:
    roles = POLICIES[route].roles
    told = operation(document, route)
    if roles is None:
        assert "security" not in told
    else:
        assert told["security"] == [{"ApiKey": []}, {"Bearer": []}]
        assert f"Roles: {', '.join(sorted(roles))}." in told["description"]
        assert {"401", "403", "429"} <= set(told["responses"])
    assert told["summary"]
    assert told["operationId"] == route[1].strip("/").replace("/", "_")


def test_both_schemes(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert schemes["ApiKey"]["name"] == "X-API-Key"
    assert schemes["Bearer"]["scheme"] == "bearer"


@pytest.mark.parametrize("route", [r for r, p in POLICIES.items() if p.body is not Body.NONE], ids=lambda r: r[1])
def test_bodies(document: dict[str, Any], route: tuple[str, str]) -> None:
    content = operation(document, route)["requestBody"]["content"]
    properties = content["multipart/form-data"]["schema"]["properties"]
    if POLICIES[route].body is Body.BATCH:
        assert properties == {
            "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
        }
        assert set(content) == {"multipart/form-data"}
    else:
        assert properties == {"file": {"type": "string", "format": "binary"}}
        assert set(content) == {"multipart/form-data", "image/jpeg", "image/png", "application/dicom"}


def test_problems_are_those_of_the_error_table(document: dict[str, Any]) -> None:
    seen = set()
    for route in DOCUMENTED:
        for status, answer in operation(document, route)["responses"].items():
            for code, example in (
                answer.get("content", {}).get("application/problem+json", {}).get("examples", {}).items()
            ):
                assert str(ERROR_TABLE[code].status) == status == str(example["value"]["status"])
                assert f"`{code}`" in answer["description"]
                seen.add(code)
    assert set(ERROR_TABLE) - seen == {"not_found", "method_not_allowed"}


def test_nothing_is_said_of_the_frameworks_validation(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in json.dumps(document)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for part in text.split('"$ref": "')[1:]:
        name = part.split('"')[0].removeprefix("#/components/schemas/")
        assert name in document["components"]["schemas"], name


def test_answers_have_examples(document: dict[str, Any]) -> None:
    answer = operation(document, ("POST", "/predict"))["responses"]["200"]["content"]["application/json"]
    assert answer["schema"]["$ref"].endswith("PredictAnswer")
    assert answer["example"] == json.loads(json.dumps(EXAMPLES["PredictAnswer"]))
    drawn = operation(document, ("POST", "/gradcam"))["responses"]["200"]["content"]
    assert list(drawn) == ["image/png", "image/jpeg", "application/dicom", "application/json"]
    judged = operation(document, ("POST", "/predict"))["responses"]["200"]
    assert list(judged["content"]) == [
        "application/json", "application/fhir+json", "application/dicom", "application/pdf", "x-application/hl7-v2+er7",
    ]  # fmt: skip
    assert {"CXR-Bundle", "CXR-Request-Id", "Idempotency-Replayed"} <= set(judged["headers"])
    made = operation(document, ("POST", "/reports"))["responses"]["200"]["content"]
    assert list(made) == ["multipart/related"]
    assert set(operation(document, ("GET", "/drift_report"))["responses"]["200"]["content"]) == {
        "application/json",
        "text/html",
    }


def test_query_parameters(document: dict[str, Any]) -> None:
    def named(route: tuple[str, str]) -> dict[str, Any]:
        told = operation(document, route).get("parameters", [])
        return {p["name"]: p["schema"] for p in told if p["in"] == "query"}

    assert (
        set(named(("POST", "/predict")))
        == set(named(("POST", "/batch_predict")))
        == {"operating_point", "tta", "explain"}
    )
    gradcam = named(("POST", "/gradcam"))
    assert set(gradcam) == {"operating_point", "target", "method", "alpha", "top_k", "size"}
    assert gradcam["alpha"]["default"] == 0.35
    assert set(gradcam["method"]["enum"]) == {"gradcam", "gradcam++", "smoothgradcam++", "scorecam"}
    assert set(named(("GET", "/drift_report"))) == {"window"}
    assert set(named(("POST", "/reports"))) == {"objects", "operating_point"}


def test_a_key_for_retries_wherever_there_is_a_body(document: dict[str, Any]) -> None:
    for route in DOCUMENTED:
        headers = {p["name"] for p in operation(document, route).get("parameters", []) if p["in"] == "header"}
        assert headers == (
            {"Idempotency-Key", "X-Priority", "X-Deadline-Ms"} if POLICIES[route].body is not Body.NONE else set()
        )
