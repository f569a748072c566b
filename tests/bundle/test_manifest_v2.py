"""Bundles of format 2 are still read: a real one with a gate, written by the code of that time, in `format_2/`, and those that ship."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.manifest import SCHEMA_VERSION
from app.bundle.parse import manifest_bytes, parse_manifest
from app.bundle.store import BundleRef, BundleStore
from app.errors import BundleError
from app.settings import PROJECT_ROOT
from tests.support.bundle_victim import load

ROOT = Path(__file__).parent / "format_2"
REF = BundleRef("tiny", "1.0.0")
MANIFEST = ROOT / "tiny" / "1.0.0" / "manifest.json"
SHIPPED = PROJECT_ROOT / "model_bundles"


def test_a_bundle_of_format_2_is_verified_and_passes_its_golden_self_test() -> None:
    raw = MANIFEST.read_bytes()
    assert json.loads(raw)["schema_version"] == 2
    bundle = load(ROOT, REF)
    assert bundle.digest == hashlib.sha256(raw).hexdigest()
    assert (bundle.manifest.schema_version, bundle.manifest.promotion) == (SCHEMA_VERSION, None)
    assert bundle.gate is not None
    assert (bundle.manifest.gate_failed, bundle.manifest.research_label) == (False, None)


def test_the_upgrade_changes_nothing_but_the_version_and_adds_what_is_absent() -> None:
    old = json.loads(MANIFEST.read_bytes())
    new = json.loads(manifest_bytes(parse_manifest(MANIFEST.read_bytes())))
    assert (new.pop("promotion"), new.pop("research_only")) == (None, False)
    assert [part.pop("conformal") for part in new["operating_points"]] == [None, None]
    assert [part.pop("baseline") for part in new["metrics"]] == [None]
    assert new.pop("variants") == []
    assert [part["input"].pop("reduced_decode") for part in (new, new["gate"]["picture"])] == [False, False]
    assert (old.pop("schema_version"), new.pop("schema_version")) == (2, SCHEMA_VERSION)
    assert new == old


def conformal(raw: dict[str, Any]) -> None:
    raw["operating_points"][0].update(rule="conformal", thresholds={"normal": 0.0, "pneumonia": 0.0})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda raw: raw.update(promotion=None), "invalid_manifest"),
        (lambda raw: raw.update(research_only=True), "invalid_manifest"),
        (lambda raw: raw["metrics"][0].update(baseline=None), "invalid_manifest"),
        (lambda raw: raw["operating_points"][0].update(conformal=None), "invalid_manifest"),
        (conformal, "invalid_manifest"),
        (
            lambda raw: raw.update(calibration={"method": "vector_temperature", "temperatures": [1.0]}),
            "invalid_manifest",
        ),
        (lambda raw: raw.update(variants=[]), "invalid_manifest"),
        (lambda raw: raw["input"].update(reduced_decode=False), "invalid_manifest"),
        (lambda raw: raw.pop("gate"), "invalid_manifest"),
        (lambda raw: raw["network"].update(logits=2), "class_count_mismatch"),
        (lambda raw: raw["input"].update(size="64"), "invalid_manifest"),
    ],
)
def test_a_manifest_of_format_2_knows_nothing_of_format_3(change: Callable[[dict[str, Any]], Any], code: str) -> None:
    raw = json.loads(MANIFEST.read_bytes())
    change(raw)
    with pytest.raises(BundleError) as refused:
        parse_manifest(json.dumps(raw).encode())
    assert refused.value.code == code


@pytest.mark.parametrize("ref", ["pneumonia-resnet18/1.0.0", "pneumonia-resnet18/1.1.0", "phantom-demo/1.0.0"])
def test_what_shipped_before_is_still_verified(ref: str) -> None:
    manifest = BundleStore(SHIPPED).verify(BundleRef.parse(ref)).manifest
    assert (manifest.schema_version, manifest.promotion, manifest.research_label) == (SCHEMA_VERSION, None, None)
