"""Bundles of format 3 are still read: a real one with everything that format had, written by the code of that time, in `format_3/`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.manifest import SCHEMA_VERSION
from app.bundle.parse import manifest_bytes, parse_manifest
from app.bundle.store import BundleRef
from app.errors import BundleError
from tests.support.bundle_victim import load

ROOT = Path(__file__).parent / "format_3"
REF = BundleRef("tiny", "1.0.0")
MANIFEST = ROOT / "tiny" / "1.0.0" / "manifest.json"


def test_a_bundle_of_format_3_is_verified_and_passes_its_golden_self_test() -> None:
    raw = MANIFEST.read_bytes()
    assert json.loads(raw)["schema_version"] == 3
    bundle = load(ROOT, REF)
    assert bundle.digest == hashlib.sha256(raw).hexdigest()
    manifest = bundle.manifest
    assert (manifest.schema_version, manifest.variants, bundle.int8) == (SCHEMA_VERSION, (), None)
    assert (manifest.research_label, manifest.gate_failed) == ("research-only", False)
    assert manifest.serving(None) is manifest


def test_the_upgrade_changes_nothing_but_the_version_and_adds_what_is_absent() -> None:
    old = json.loads(MANIFEST.read_bytes())
    new = json.loads(manifest_bytes(parse_manifest(MANIFEST.read_bytes())))
    assert new.pop("variants") == []
    assert [part["input"].pop("reduced_decode") for part in (new, new["gate"]["picture"])] == [False, False]
    assert (old.pop("schema_version"), new.pop("schema_version")) == (3, SCHEMA_VERSION)
    assert new == old


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda raw: raw.update(variants=[]), "invalid_manifest"),
        (lambda raw: raw["input"].update(reduced_decode=False), "invalid_manifest"),
        (lambda raw: raw["gate"]["picture"]["input"].update(reduced_decode=True), "invalid_manifest"),
        (lambda raw: raw["files"].update({"network-int8.onnx": raw["files"]["network.onnx"]}), "invalid_manifest"),
        (lambda raw: raw.pop("gate"), "invalid_manifest"),
        (lambda raw: raw["network"].update(logits=2), "class_count_mismatch"),
        (lambda raw: raw["input"].update(size="64"), "invalid_manifest"),
        (lambda raw: raw["calibration"].update(temperatures=[1.0, 1.0]), "invalid_manifest"),
    ],
)
def test_a_manifest_of_format_3_knows_nothing_of_format_4(change: Callable[[dict[str, Any]], Any], code: str) -> None:
    raw = json.loads(MANIFEST.read_bytes())
    change(raw)
    with pytest.raises(BundleError) as refused:
        parse_manifest(json.dumps(raw).encode())
    assert refused.value.code == code
