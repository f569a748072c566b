"""What format 3 says of itself must fit together: promotions, prediction sets, temperatures, baselines."""

from __future__ import annotations

from typing import Any

import pytest

from app.bundle.manifest import Manifest
from app.bundle.parse import manifest_bytes, parse_manifest, validate_manifest
from app.domain import Task
from app.errors import BundleError
from tests.support.promotions import FAILED, PASSED
from tests.support.tiny_bundle import tiny_parts

ESTIMATE = {"value": 0.91, "ci": [0.88, 0.94]}
MEASURED = {"coverage": ESTIMATE, "mean_set_size": {"value": 1.2}, "data": "phantoms", "n": 100}


def made(task: Task = "binary", **fields: Any) -> Manifest:
    return validate_manifest({**tiny_parts(task=task).manifest, "files": {}, **fields})


def points(**point: Any) -> dict[str, Any]:
    whole = {"name": "sets", "rule": "conformal", "target": "coverage 0.90", **point}
    return {"operating_points": [whole], "default_operating_point": "sets"}


def refused(task: Task = "binary", **fields: Any) -> str:
    with pytest.raises(BundleError) as error:
        made(task, **fields)
    assert error.value.code == "invalid_manifest"
    return error.value.message


def test_a_promotion_says_whether_the_gate_failed_and_which_lines() -> None:
    failed = made(promotion=FAILED)
    assert failed.promotion is not None
    assert (failed.gate_failed, failed.promotion.failed) == (True, ("source shortcut", "calibration"))
    assert failed.research_label == "research-only, gate failed: source shortcut"
    passed = made(promotion=PASSED)
    assert (passed.gate_failed, passed.research_label) == (False, None)
    assert made().promotion is None


def test_a_passed_bundle_can_still_be_for_research_only() -> None:
    both = made(promotion=PASSED, research_only=True)
    assert (both.gate_failed, both.research_label) == (False, "research-only")


@pytest.mark.parametrize(
    "change",
    [
        {"passed": True},
        {"lines": []},
        {"lines": PASSED["lines"]},
        {"label": ""},
        {"label": "a\r\nSet-Cookie: b"},
        {"label": "gate failed \u2014 shortcut"},
        {"label": "x" * 121},
        {"policy_digest": "0" * 63},
        {"waived_by": "somebody"},
    ],
)
def test_a_promotion_that_contradicts_its_lines_or_is_no_plain_label_is_refused(change: dict[str, Any]) -> None:
    assert "promotion" in refused(promotion={**FAILED, **change})


def test_a_manifest_with_everything_of_format_3_is_written_and_read_again() -> None:
    metric = {"name": "auroc", "data": "test", "value": 0.9, "n": 10}
    full = made(
        "multiclass",
        promotion=FAILED,
        research_only=True,
        calibration={"method": "vector_temperature", "temperatures": [1.0, 2.0, 0.5]},
        metrics=[{**metric, "baseline": {"name": "32 px thumbnail", "value": 0.97, "ci": [0.96, 0.98]}}],
        **points(thresholds={"normal": 0.0, "pneumonia": 0.0, "tuberculosis": -1.0}, conformal=MEASURED),
    )
    whole = full.model_copy(update={"files": parse_manifest_files(full)})
    assert parse_manifest(manifest_bytes(whole)) == whole


def parse_manifest_files(manifest: Manifest) -> dict[str, Any]:
    names = ("network.onnx", "head.safetensors", "reference.npz", "golden.npz", "MODEL_CARD.md")
    entry = {"size": 1, "sha256": "0" * 64}
    return dict(validate_manifest({**manifest.model_dump(), "files": dict.fromkeys(names, entry)}).files)


def test_a_conformal_point_has_a_threshold_for_every_class() -> None:
    assert made(**points(thresholds={"normal": 0.0, "pneumonia": 0.0}, conformal=MEASURED)).operating_points
    assert "thresholds for" in refused(**points(thresholds={"pneumonia": 0.0}))
    assert "thresholds for" in refused("multiclass", **points(thresholds={"pneumonia": 0.0, "normal": 0.0}))


def test_there_are_no_prediction_sets_of_labels_that_are_judged_one_by_one() -> None:
    thresholds = dict.fromkeys(("atelectasis", "cardiomegaly", "effusion"), 0.0)
    assert "does not fit" in refused("multilabel", **points(thresholds=thresholds))


def test_coverage_belongs_to_the_conformal_rule() -> None:
    wrong = points(rule="threshold", thresholds={"pneumonia": 0.0}, conformal=MEASURED)
    assert "coverage belongs" in refused(**wrong)


@pytest.mark.parametrize("temperatures", [[1.0], [1.0, 2.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
def test_temperatures_are_positive_and_as_many_as_the_logits(temperatures: list[float]) -> None:
    refused("multiclass", calibration={"method": "vector_temperature", "temperatures": temperatures})
