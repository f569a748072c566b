"""Bundles of every task and rule over the shipped application: judged, explained, reported, watched and recorded alike."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.domain import Role
from app.imaging.phantom import encode_png, phantom
from app.main import create_app
from app.settings import Settings
from tests.api.conftest import listening
from tests.api.routes.test_predict import events
from tests.support.dicom_films import dicom_film
from tests.support.kinds_of_bundle import NIH, binary_sets, nih_labels, three_classes
from tests.support.promotions import LABEL

FILMS = [encode_png(phantom(seed, height=324, width=288, opacity=bool(seed % 2))) for seed in range(10)]
PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Serving:
    client: httpx.Client
    records: Any
    state: Path

    def predict(self, film: bytes, **query: Any) -> dict[str, Any]:
        reply = self.client.post("/predict", params=query, content=film, headers=PNG)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def predictions(self, **query: Any) -> list[dict[str, Any]]:
        return [self.predict(film, **query) for film in FILMS]


def serving(tmp: Path, make: Any) -> Iterator[Serving]:
    make(tmp / "bundles")
    app = create_app(
        Settings(
            state_dir=tmp / "state", bundles_dir=tmp / "bundles", accept_failed_gate=True, drift_min_predictions=50
        )
    )
    with listening(app) as address:
        key = app.state.records.keys.create(Role.ADMIN, "test")
        with httpx.Client(base_url=address, headers={"X-API-Key": key}, timeout=60) as client:
            yield Serving(client, app.state.records, tmp / "state")


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    yield from serving(tmp_path_factory.mktemp("binary"), binary_sets)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    yield from serving(tmp_path_factory.mktemp("three"), three_classes)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    yield from serving(tmp_path_factory.mktemp("labels"), nih_labels)


def in_set(answer: dict[str, Any]) -> set[str]:
    return {c["name"] for c in answer["classes"] if c["margin"] >= c["threshold_margin"]}


def codes(answer: dict[str, Any]) -> list[str]:
    return [w["code"] for w in answer["warnings"]]


@pytest.mark.parametrize(("kind", "normal"), [("binary", "normal"), ("three", "normal")])
def test_a_prediction_set_is_what_the_margins_say(kind: str, normal: str, request: pytest.FixtureRequest) -> None:
    found: Serving = request.getfixturevalue(kind)
    sizes = set()
    for answer in found.predictions(operating_point="sets"):
        names = answer["prediction_set"]
        assert set(names) == in_set(answer)
        assert answer["prediction"]["rule"] == "conformal"
        assert answer["prediction"]["positive"] == [name for name in names if name != normal]
        assert ("ambiguous" in answer["review"]["reasons"]) is (len(names) != 1)
        assert answer["operating_point"]["conformal"]["coverage_ci"] == [0.88, 0.94]
        sizes.add(len(names))
    assert len(sizes) > 1  # the films prove something


def test_other_points_have_no_prediction_set(binary: Serving, three: Serving) -> None:
    for answer in (binary.predict(FILMS[0], operating_point="screening"), three.predict(FILMS[0])):
        assert (answer["prediction_set"], answer["operating_point"]["conformal"]) == (None, None)


def test_every_answer_of_a_bundle_whose_gate_failed_says_so(binary: Serving) -> None:
    answer = binary.predict(FILMS[0])
    assert codes(answer)[0] == "research_only"
    assert LABEL in answer["warnings"][0]["message"]
    assert answer["bundle"]["restriction"] == LABEL
    batch = binary.client.post("/batch_predict", files=[("files", FILMS[0]), ("files", FILMS[1])]).json()
    assert [codes(item["result"])[0] for item in batch["results"]] == ["research_only"] * 2
    drawn = binary.client.post("/gradcam", content=FILMS[0], headers=PNG)
    assert drawn.headers["cxr-restriction"] == LABEL
    explained = binary.client.post("/gradcam", content=FILMS[0], headers={**PNG, "Accept": "application/json"}).json()
    assert codes(explained["prediction"])[0] == "research_only"
    assert binary.client.get("/health").json()["restriction"] == LABEL


def test_no_answer_of_another_bundle_says_so(three: Serving) -> None:
    reply = three.client.post("/predict", content=FILMS[0], headers=PNG)
    assert "research_only" not in codes(reply.json())
    assert (reply.json()["bundle"]["restriction"], reply.headers["cxr-restriction"]) == (None, "none")
    assert three.client.get("/health").json()["restriction"] is None


@pytest.mark.parametrize("kind", ["binary", "three", "labels"])
def test_result_objects_are_made_and_say_the_restriction(kind: str, request: pytest.FixtureRequest) -> None:
    found: Serving = request.getfixturevalue(kind)
    restriction = found.client.get("/health").json()["restriction"]
    film, headers = dicom_film(5), {"Content-Type": "application/dicom"}
    for kinds in ("sr", "fhir", "oru", "pdf", "sc", "gsps"):
        reply = found.client.post("/reports", params={"objects": kinds}, content=film, headers=headers)
        assert reply.status_code == 200, (kinds, reply.text)
    report = found.client.post("/predict", content=film, headers={**headers, "Accept": "application/dicom"})
    fhir = found.client.post("/predict", content=film, headers={**headers, "Accept": "application/fhir+json"}).json()
    for words in (report.content, fhir["conclusion"].encode()):
        assert (b"research_only" in words) is (restriction is not None)


def test_the_class_that_is_no_finding_shows_no_limit_that_its_verdict_contradicts(binary: Serving) -> None:
    """A film surely normal: the negative class is in the set, and is still no positive finding."""
    film = next(
        film
        for seed in range(40)
        if (film := dicom_film(seed)) and "normal" in dicom_predict(binary, film)["prediction_set"]
    )
    fhir = binary.client.post(
        "/predict", content=film, headers={"Content-Type": "application/dicom", "Accept": "application/fhir+json"}
    ).json()
    rows = {r["code"]["text"]: r for r in fhir["contained"] if r["resourceType"] == "Observation"}
    assert "referenceRange" not in rows["normal"]
    assert "referenceRange" in rows["pneumonia"]


def dicom_predict(found: Serving, film: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = found.client.post(
        "/predict", content=film, headers={"Content-Type": "application/dicom"}
    ).json()
    return answer


@pytest.mark.parametrize("point", ["risk-prioritised", "argmax", "sets"])
def test_three_classes_at_every_rule(three: Serving, point: str) -> None:
    for answer in three.predictions(operating_point=point):
        assert len(answer["classes"]) == 3
        assert sum(c["probability"] for c in answer["classes"]) == pytest.approx(1.0)
        assert answer["confidence"] == answer["classes"][0]["probability"]
        label, positive = answer["prediction"]["label"], answer["prediction"]["positive"]
        if point == "argmax":
            assert label == answer["classes"][0]["name"]
        if point == "risk-prioritised":
            reached = {c["name"] for c in answer["classes"] if c["threshold_margin"] is not None} & {
                c["name"]
                for c in answer["classes"]
                if c["threshold_margin"] is not None and c["margin"] >= c["threshold_margin"]
            }
            wanted = next((name for name in ("tuberculosis", "pneumonia") if name in reached), "normal")
            assert (label, positive) == (wanted, [] if wanted == "normal" else [wanted])


@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("three", 3), ("labels", 15)])
def test_maps_of_the_most_probable_classes_and_of_a_named_one(
    kind: str, classes: int, request: pytest.FixtureRequest
) -> None:
    found: Serving = request.getfixturevalue(kind)
    headers = {**PNG, "Accept": "application/json"}
    top = found.client.post("/gradcam?top_k=3", content=FILMS[3], headers=headers)
    assert top.status_code == 200, top.text
    names = [c["name"] for c in top.json()["prediction"]["classes"]]
    assert len(names) == classes
    maps = top.json()["explanations"]
    label = top.json()["prediction"]["prediction"]["label"]
    assert [m["target"] for m in maps] == [label, *[n for n in names if n != label]][: min(3, classes)]
    for name in names:
        one = found.client.post(f"/gradcam?target={name}&method=gradcam%2B%2B", content=FILMS[3], headers=headers)
        (shown,) = one.json()["explanations"]
        assert (shown["target"], shown["height"], shown["width"]) == (name, 8, 8)
        assert name in shown["caption"]
    panels = found.client.post("/gradcam?top_k=3&size=full", content=FILMS[3], headers=PNG)
    assert Image.open(io.BytesIO(panels.content)).size == (288 * min(3, classes), 324)


def test_labels_are_judged_one_by_one_and_contradictions_are_said(labels: Serving) -> None:
    said = set()
    for answer in labels.predictions():
        classes = {c["name"]: c for c in answer["classes"]}
        assert set(classes) == set(NIH)
        assert answer["confidence"] is None
        reached = {name for name, c in classes.items() if c["margin"] >= c["threshold_margin"]}
        findings = reached - {"no_finding"}
        assert set(answer["prediction"]["positive"]) == findings
        contradiction = ("no_finding" in reached) == bool(findings)
        assert ("inconsistent_labels" in codes(answer)) is contradiction
        assert codes(answer)[0] == "research_only"
        said.add(contradiction)
    assert said == {True, False}


@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("three", 3), ("labels", 15)])
def test_drift_has_a_row_per_class(kind: str, classes: int, request: pytest.FixtureRequest) -> None:
    found: Serving = request.getfixturevalue(kind)
    for _ in range(6):
        found.predictions()
    reply = found.client.get("/drift_report?window=24h")
    assert reply.status_code == 200
    report = reply.json()
    assert len(report["classes"]) == classes
    assert report["n"] >= 60
    observed = [row["observed"] for row in report["classes"]]
    if kind != "labels":
        assert sum(observed) == pytest.approx(1.0)
    confidence = next(row for row in report["statistics"] if row["name"] == "confidence")
    assert (confidence["level"] == "insufficient_data") is (kind == "labels" or report["level"] == "insufficient_data")
    assert "text/html" in found.client.get("/drift_report", headers={"Accept": "text/html"}).headers["content-type"]


@pytest.mark.parametrize("kind", ["binary", "three", "labels"])
def test_the_record_holds_the_set_and_verifies(kind: str, request: pytest.FixtureRequest) -> None:
    found: Serving = request.getfixturevalue(kind)
    answer = found.predict(FILMS[2])
    assert found.records.verify().problems == []
    metrics = found.client.get("/metrics").text
    assert f'label="{answer["prediction"]["label"]}"' in metrics
    recorded = events(found.state, answer["request_id"])
    (payload,) = [payload for kind, payload in recorded if kind == "predict"]
    assert payload.get("prediction_set") == answer["prediction_set"]
    assert payload["predictions"]["warnings"] == codes(answer)


def test_maps_of_different_classes_differ(three: Serving) -> None:
    headers = {**PNG, "Accept": "application/json"}
    maps = three.client.post("/gradcam?top_k=3", content=FILMS[4], headers=headers).json()["explanations"]
    values = [np.array(m["values"]) for m in maps]
    assert not np.array_equal(values[0], values[1])
