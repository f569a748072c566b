"""Metrics: on the registry given, with help and units, bounded labels, and no more than was observed."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import numpy as np
import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import app.metrics
from app.bundle.manifest import Manifest
from app.domain import (
    STATISTICS,
    Decision,
    EngineInfo,
    Geometry,
    InputStatistics,
    Judgement,
    LaneState,
    Notice,
    Radiograph,
    ReviewReason,
)
from app.drift import bin_counts
from app.metrics import Metrics, bin_of
from tests.support.tiny_bundle import tiny_parts

REFERENCE = tiny_parts().reference
MANIFEST = Manifest.model_validate({**tiny_parts().manifest, "files": {}})
ENGINE = EngineInfo("onnxruntime", "1.31", "fp32", 1)


def judgement(**decided: Any) -> Judgement:
    values: dict[str, Any] = {
        "task": "binary",
        "label": "pneumonia",
        "positive": ("pneumonia",),
        "rule": "threshold",
        "confidence": 0.83,
        "classes": (),
        "operating_point": "screening",
        "review_reasons": (ReviewReason.BORDERLINE, ReviewReason.QUALITY),
    }
    return Judgement(
        radiograph=Radiograph(np.zeros((8, 8), np.uint8), "ab" * 32, "png"),
        geometry=Geometry(8, 8, 0, 0, 8, 8, 8, 8, 0, 0, 8),
        statistics=InputStatistics(-1e9, 40.0, 1.0, 0.1, 0.05, 1e9, 8, 8),
        decision=Decision(**{**values, **decided}),
        notices=(Notice("low_contrast", "x"),),
        engine=ENGINE,
        feature_projection=np.zeros(16, np.float32),
        timing_ms={"decode": 3.0, "network": 20.0, "sleep": 1.0},
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def fill(metrics: Metrics) -> None:
    """Touch everything once."""
    metrics.request_begun()
    metrics.observe_request(method="POST", route="/predict", status=422, seconds=0.02, body_bytes=9, code="too_small")
    metrics.set_upload_bytes(5)
    metrics.observe_refusal("too_small")
    metrics.observe_judgement(judgement(), "tiny/1.0.0", REFERENCE)
    metrics.serve_bundle(MANIFEST, "ab" * 32, ENGINE, REFERENCE)
    metrics.observe_judgement(judgement(), "tiny/1.0.0", REFERENCE)
    metrics.observe_repeat()
    metrics.watch(
        ready=lambda: True,
        lanes=lambda: [LaneState("routine", 3, 1, 0.5, {"full": 2, "wait": 1}, 40, 2.5)],
        audit_healthy=lambda: False,
        decoder_restarts=lambda: 4,
    )
    metrics.set_limits(places={"stat": 42, "routine": 34, "bulk": 8}, version="0.1.0")
    metrics.observe_audit_commit(4, 0.003)
    metrics.observe_audit_failure()


def test_nothing_goes_to_the_global_registry() -> None:
    before = set(prometheus_client.REGISTRY._names_to_collectors)
    for _ in range(2):
        fill(Metrics(CollectorRegistry()))
    assert set(prometheus_client.REGISTRY._names_to_collectors) == before


def test_an_answer(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.serve_bundle(MANIFEST, "ab" * 32, ENGINE, REFERENCE)
    metrics.observe_judgement(judgement(), "tiny/1.0.0", REFERENCE)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("cxr_predictions_total", bundle="tiny/1.0.0", label="pneumonia", operating_point="screening") == 1
    assert value("cxr_positive_classes_total", bundle="tiny/1.0.0", label="pneumonia") == 1
    assert value("cxr_prediction_confidence_ratio_sum", bundle="tiny/1.0.0") == 0.83
    assert value("cxr_prediction_confidence_ratio_bucket", bundle="tiny/1.0.0", le="0.8") == 0
    assert value("cxr_prediction_confidence_ratio_bucket", bundle="tiny/1.0.0", le="0.9") == 1
    assert value("cxr_review_reasons_total", reason="borderline") == 1
    assert value("cxr_warnings_total", code="low_contrast") == 1
    assert value("cxr_stage_duration_seconds_sum", stage="network") == 0.02
    assert value("cxr_stage_duration_seconds_count", stage="other") == 1
    assert value("cxr_drift_inputs_total", statistic="mean", bin="0") == 1
    assert value("cxr_drift_inputs_total", statistic="sharpness", bin="9") == 1
    assert value("cxr_drift_inputs_total", statistic="mean", bin="5") == 0


def test_a_multilabel_answer_has_no_confidence(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.observe_judgement(judgement(confidence=None), "tiny/1.0.0", REFERENCE)
    assert registry.get_sample_value("cxr_prediction_confidence_ratio_count", {"bundle": "tiny/1.0.0"}) is None
    assert registry.get_sample_value("cxr_drift_inputs_total", {"statistic": "confidence", "bin": "0"}) is None


def test_a_new_bundle_replaces_what_was_said_of_the_old(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.serve_bundle(MANIFEST, "ab" * 32, ENGINE, REFERENCE)
    metrics.observe_judgement(judgement(), "tiny/1.0.0", REFERENCE)
    newer = MANIFEST.model_copy(update={"version": "2.0.0"})
    metrics.serve_bundle(newer, "cd" * 32, replace(ENGINE, precision="int8"), REFERENCE)
    infos = [s for m in registry.collect() if m.name == "cxr_bundle_info" for s in m.samples]
    assert [(s.labels["version"], s.labels["digest"], s.labels["precision"], s.value) for s in infos] == [
        ("2.0.0", "cd" * 32, "int8", 1)
    ]
    assert registry.get_sample_value("cxr_drift_inputs_total", {"statistic": "mean", "bin": "0"}) == 0
    shares = [
        registry.get_sample_value("cxr_drift_reference_ratio", {"statistic": "mean", "bin": str(i)}) for i in range(10)
    ]
    assert sum(s or 0 for s in shares) == pytest.approx(1)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=9, max_size=9).map(sorted),
    st.floats(-1e7, 1e7),
)
def test_bins_are_those_of_the_report(edges: list[float], value: float) -> None:
    array = np.array(edges)
    assert bin_counts([value], array)[bin_of(value, array)] == 1


def test_statistics_are_those_of_the_reference() -> None:
    assert {f"edges_{name}" for name in STATISTICS} <= set(REFERENCE)
    assert vars(app.metrics)["STATISTICS"] is STATISTICS


@pytest.mark.parametrize(
    ("method", "code", "labels"),
    [("BREW", "too_small", ("other", "too_small")), ("POST", "CANARY", ("POST", "other"))],
)
def test_labels_are_bounded(
    registry: CollectorRegistry, metrics: Metrics, method: str, code: str, labels: tuple[str, str]
) -> None:
    metrics.request_begun()
    metrics.observe_request(method=method, route="/predict", status=400, seconds=1, body_bytes=0, code=code)
    metrics.observe_refusal(code)
    assert (
        registry.get_sample_value(
            "cxr_http_requests_total", {"method": labels[0], "route": "/predict", "status_class": "4xx"}
        )
        == 1
    )
    assert registry.get_sample_value("cxr_http_problems_total", {"route": "/predict", "code": labels[1]}) == 1
    assert registry.get_sample_value("cxr_images_refused_total", {"code": labels[1]}) == 1
    assert "CANARY" not in metrics.render()[0].decode()


def test_state_is_asked_at_the_scrape(registry: CollectorRegistry, metrics: Metrics) -> None:
    now = {"queued": 3, "ready": False, "restarts": 0}
    metrics.watch(
        ready=lambda: bool(now["ready"]),
        lanes=lambda: [LaneState("stat", now["queued"], 1, 0.5, {"full": 4}, 9, 2.5)],
        decoder_restarts=lambda: now["restarts"],
    )
    assert registry.get_sample_value("cxr_dicom_decoder_restarts_total") == 0
    assert registry.get_sample_value("cxr_queue_images", {"lane": "stat", "state": "queued"}) == 3
    for name, value in {
        "cxr_queue_oldest_seconds": 0.5,
        "cxr_queue_begun_total": 9,
        "cxr_queue_waited_seconds_total": 2.5,
    }.items():
        assert registry.get_sample_value(name, {"lane": "stat"}) == value
    assert registry.get_sample_value("cxr_queue_refused_total", {"lane": "stat", "reason": "full"}) == 4
    assert registry.get_sample_value("cxr_ready") == 0
    now.update(queued=5, ready=True, restarts=2)
    assert registry.get_sample_value("cxr_dicom_decoder_restarts_total") == 2
    assert registry.get_sample_value("cxr_queue_images", {"lane": "stat", "state": "queued"}) == 5
    assert registry.get_sample_value("cxr_ready") == 1


def test_the_text(metrics: Metrics) -> None:
    fill(metrics)
    content, media_type = metrics.render()
    assert media_type == "text/plain; version=0.0.4; charset=utf-8"
    families = {f.name: f for f in text_string_to_metric_families(content.decode())}
    for family in families.values():
        assert family.documentation, family.name
        if family.name.startswith("cxr_"):
            assert re.search(
                r"_(seconds|bytes|ratio|info|events|images|places|healthy|ready|in_flight)$", family.name
            ) or (family.type == "counter"), family.name
    assert {"process_resident_memory_bytes", "python_info", "python_gc_objects_collected"} <= set(families)
    assert b"_created" not in content


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_promtool_finds_nothing(metrics: Metrics) -> None:
    fill(metrics)
    done = subprocess.run(["promtool", "check", "metrics"], input=metrics.render()[0], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_scrape_is_quick(metrics: Metrics) -> None:
    """It runs on the event loop."""
    fill(metrics)
    for route in range(12):
        for status in (200, 400, 500):
            metrics.request_begun()
            metrics.observe_request(
                method="POST", route=f"/r{route}", status=status, seconds=1, body_bytes=1, code=None
            )

    async def best() -> float:
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(10):
            begun = loop.time()
            metrics.render()
            times.append(loop.time() - begun)
        return min(times)

    assert asyncio.run(best()) < 0.05
