"""The documents: numbers survive, examples are true, wording is kept."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api import drift_schema, schemas
from app.api.examples import EXAMPLES
from app.api.schemas import DISCLAIMER, gradcam_response, prediction_response
from app.bundle.manifest import Manifest
from app.domain import (
    Acquisition,
    ActivationMap,
    ClassScore,
    Decision,
    EngineInfo,
    Geometry,
    InputStatistics,
    Judgement,
    Notice,
    Radiograph,
    ReviewReason,
    Source,
)
from app.judging import Contour
from app.records import EventId
from app.service import Answer, Explanation
from tests.support.tiny_bundle import tiny_parts

STATISTICS = InputStatistics(100.0, 40.0, 0.8, 0.1, 0.05, 12.0, 512, 448)
GEOMETRY = Geometry(512, 448, 1, 2, 510, 440, 64, 55, 0, 4, 64)


def judgement(**changes: Any) -> Judgement:
    decision = Decision(
        task="binary",
        label="pneumonia",
        positive=("pneumonia",),
        rule="threshold",
        confidence=0.75,
        classes=(
            ClassScore("pneumonia", 0.75, float(np.float32(1.0986123)), 1.1, -0.4, 0.4, True),
            ClassScore("normal", 0.25, -1.0986123, -1.1, None, None, False),
        ),
        operating_point="screening",
        review_reasons=(ReviewReason.BORDERLINE, ReviewReason.QUALITY),
    )
    values: dict[str, Any] = {
        "radiograph": Radiograph(np.zeros((512, 448), np.uint8), "ab" * 32, "png"),
        "geometry": GEOMETRY,
        "statistics": STATISTICS,
        "decision": decision,
        "notices": (Notice("intended_use_unverified", "Only for phantoms."),),
        "engine": EngineInfo("onnxruntime", "1", "fp32", 1),
        "feature_projection": np.zeros(16, np.float32),
        "timing_ms": {"decode": 1.23456},
    }
    return Judgement(**(values | changes))


def answer(**changes: Any) -> Answer:
    manifest = Manifest.model_validate({**tiny_parts().manifest, "files": {}})
    point = manifest.operating_points[0]
    return Answer("request-1", "cd" * 32, manifest, point, judgement(**changes), EventId("chain", 3))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_is_what_its_model_says(name: str) -> None:
    model = getattr(schemas, name, None) or getattr(drift_schema, name)
    made = model.model_validate_json(json.dumps(EXAMPLES[name]))
    assert json.loads(made.model_dump_json()) == json.loads(json.dumps(EXAMPLES[name]))


def test_the_answer_has_the_shape_of_the_contract() -> None:
    shown = json.loads(prediction_response(answer()).model_dump_json())
    assert list(shown) == [
        "api_version", "request_id", "bundle", "engine", "image", "task", "prediction", "prediction_set", "confidence",
        "classes", "operating_point", "review", "warnings", "calibration", "timing_ms", "disclaimer", "geometry", "tta", "explanations",
    ]  # fmt: skip
    assert shown["bundle"] == {"name": "tiny", "version": "1.0.0", "digest": "cd" * 32, "restriction": None}
    assert shown["engine"] == {"name": "onnxruntime", "version": "1", "precision": "fp32"}
    assert shown["image"] == {
        "sha256": "ab" * 32, "width": 448, "height": 512, "format": "png", "view": None, "acquisition": None,
    }  # fmt: skip
    assert shown["prediction"] == {"label": "pneumonia", "positive": ["pneumonia"], "rule": "threshold"}
    assert (shown["prediction_set"], shown["operating_point"]["conformal"]) == (None, None)
    assert shown["confidence"] == 0.75
    assert shown["classes"][0] == {
        "name": "pneumonia", "probability": 0.75, "logit": 1.09861231, "margin": 1.1, "threshold_margin": -0.4,
        "threshold_probability": 0.4, "positive": True,
    }  # fmt: skip
    assert shown["classes"][1]["threshold_margin"] is None
    assert shown["operating_point"]["name"] == "screening"
    assert set(shown["operating_point"]["measured"]["pneumonia"]) == {"sensitivity", "specificity", "ci", "data", "n"}
    assert shown["review"] == {"required": True, "reasons": ["borderline", "quality"]}
    assert shown["warnings"] == [{"code": "intended_use_unverified", "message": "Only for phantoms."}]
    assert shown["calibration"]["method"] in {"none", "temperature", "platt", "isotonic"}
    assert shown["timing_ms"] == {"decode": 1.235}
    assert shown["geometry"]["crop_width"] == 440
    assert shown["explanations"] == []


def test_what_a_dicom_header_says_and_nothing_of_the_patient() -> None:
    facts = Acquisition(
        modality="CR", sop_class="1.2.840.10008.5.1.4.1.1.1", transfer_syntax="1.2.840.10008.1.2.1",
        photometric="MONOCHROME2", bits_stored=12, display="window_linear", body_part="CHEST", view="PA", age_years=4.0,
        burned_in_annotation=False, pixel_spacing_mm=(0.2, 0.25), pixel_spacing_source="pixel_spacing",
    )  # fmt: skip
    source = Source("1.2", "CANARY.1", "CANARY.2", "CANARY.3", patient_name="CANARY", patient_id="CANARY")
    film = Radiograph(np.zeros((512, 448), np.uint8), "ab" * 32, "dicom", facts, source)
    text = prediction_response(answer(radiograph=film)).model_dump_json()
    shown = json.loads(text)["image"]
    assert shown["view"] == "PA"
    assert shown["acquisition"] == {
        "modality": "CR", "sop_class": "1.2.840.10008.5.1.4.1.1.1", "transfer_syntax": "1.2.840.10008.1.2.1",
        "photometric": "MONOCHROME2", "bits_stored": 12, "display": "window_linear", "body_part": "CHEST", "view": "PA",
        "burned_in_annotation": False, "presentation_intent": None, "derived": False, "pixel_spacing_mm": [0.2, 0.25],
        "pixel_spacing_source": "pixel_spacing",
    }  # fmt: skip
    assert "CANARY" not in text
    assert "age" not in shown["acquisition"]


def test_multilabel_has_no_confidence() -> None:
    decision = judgement().decision
    none = Decision(**{**vars(decision), "confidence": None})
    assert json.loads(prediction_response(answer(decision=none)).model_dump_json())["confidence"] is None


def test_wording() -> None:
    assert "alibrated risk score" in DISCLAIMER
    assert "decision support, not a diagnosis" in DISCLAIMER
    assert "not the outline of a lesion" in DISCLAIMER


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_nine_digits_hold_a_float32(value: float) -> None:
    score = ClassScore("pneumonia", 0.5, value, value, None, None, False)
    decision = Decision(**{**vars(judgement().decision), "classes": (score,)})
    shown = json.loads(prediction_response(answer(decision=decision)).model_dump_json())["classes"][0]
    assert np.float32(shown["logit"]) == np.float32(value)
    assert float(f"{shown['logit']:.9g}") == shown["logit"]


def test_explanations() -> None:
    values = np.array([[0.0, 0.123456], [1.0, 0.5]], np.float32)
    maps = (ActivationMap("pneumonia", "gradcam", values), ActivationMap("normal", "gradcam", values * 0, True, True))
    explained = Explanation(
        answer(maps=maps), (Contour(0.5, (((1, 2), (3, 4), (5, 6)),)), Contour(0.5, ())), ("first", "second"), None
    )
    shown = json.loads(gradcam_response(explained).model_dump_json())
    first, second = shown["explanations"]
    assert first == {
        "target": "pneumonia", "method": "gradcam", "negated": False, "no_positive_evidence": False, "height": 2, "width": 2,
        "values": [[0.0, 0.1235], [1.0, 0.5]], "contours": {"level": 0.5, "polygons": [[[1, 2], [3, 4], [5, 6]]]}, "caption": "first",
    }  # fmt: skip
    assert (second["negated"], second["no_positive_evidence"], second["contours"]["polygons"]) == (True, True, [])
    assert shown["geometry"]["size"] == 64
    assert shown["prediction"]["explanations"] == []
    assert shown["prediction"]["classes"]
    assert shown["disclaimer"] == DISCLAIMER
    with_maps = json.loads(prediction_response(explained.answer).model_dump_json())
    assert [m["target"] for m in with_maps["explanations"]] == ["pneumonia", "normal"]


def test_a_report_of_drift_keeps_what_is_missing() -> None:
    row = {"level": "insufficient_data", "psi": None, "chance": None}
    report = SimpleNamespace(
        since="2026-01-01T00:00:00Z", until="2026-01-02T00:00:00Z", n=3, minimum=500, n_reference=1_000,
        level="insufficient_data",
        statistics=[SimpleNamespace(name="mean", n=3, edges=(1 / 3,), expected=(0.5, 0.5), observed=(1 / 3, 2 / 3), **row)],
        classes=[SimpleNamespace(name="normal", expected=0.25, observed=None, **row)],
        embedding=SimpleNamespace(level="insufficient_data", n=0, distance=None, divergence=None, chance=math.pi),
    )  # fmt: skip
    shown = drift_schema.drift_response(report, "tiny/1.0.0", "r")  # type: ignore[arg-type]  # the attributes are all it needs
    assert shown.statistics[0].psi is None
    assert shown.statistics[0].observed == [0.333333, 0.666667]
    assert shown.statistics[0].edges == [0.333333]
    assert shown.classes[0].observed is None
    assert shown.embedding.chance == 3.141593
    assert (shown.levels.watch, shown.levels.alert) == (0.1, 0.2)
