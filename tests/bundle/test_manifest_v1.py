"""Bundles of format 1 are still read: a real one, written by the code of that time, lies in `format_1/`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.manifest import SCHEMA_VERSION
from app.bundle.parse import manifest_bytes, parse_manifest
from app.bundle.store import BundleRef, BundleStore
from app.errors import BundleError
from tests.support.bundle_victim import load
from tests.support.tiny_bundle import tiny_parts

ROOT = Path(__file__).parent / "format_1"
REF = BundleRef("tiny", "1.0.0")
MANIFEST = ROOT / "tiny" / "1.0.0" / "manifest.json"


def test_a_bundle_of_format_1_is_verified_and_passes_its_golden_self_test() -> None:
    raw = MANIFEST.read_bytes()
    assert json.loads(raw)["schema_version"] == 1
    bundle = load(ROOT, REF)
    assert bundle.digest == hashlib.sha256(raw).hexdigest()  # the bundle is still the one that was activated
    assert (bundle.manifest.schema_version, bundle.manifest.gate, bundle.gate) == (SCHEMA_VERSION, None, None)


def test_the_upgrade_changes_nothing_but_the_version_and_adds_what_is_absent() -> None:
    old = json.loads(MANIFEST.read_bytes())
    new = json.loads(manifest_bytes(parse_manifest(MANIFEST.read_bytes())))
    assert (new.pop("gate"), new.pop("promotion"), new.pop("research_only")) == (None, None, False)
    assert [part.pop("conformal") for part in new["operating_points"]] == [None, None]
    assert [part.pop("baseline") for part in new["metrics"]] == [None]
    assert (new.pop("variants"), new["input"].pop("reduced_decode")) == ([], False)
    assert (old.pop("schema_version"), new.pop("schema_version")) == (1, SCHEMA_VERSION)
    assert new == old


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        del raw[key]

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda raw: raw.update(gate=None), "invalid_manifest"),
        (lambda raw: raw.update(promotion=None), "invalid_manifest"),
        (lambda raw: raw["metrics"][0].update(baseline=None), "invalid_manifest"),
        (_without("review"), "invalid_manifest"),
        (lambda raw: raw["input"].update(size="64"), "invalid_manifest"),
        (lambda raw: raw.update(default_operating_point="other"), "invalid_manifest"),
        (lambda raw: raw["network"].update(logits=2), "class_count_mismatch"),
        (lambda raw: raw.update(schema_version=True), "wrong_schema_version"),
        (lambda raw: raw.update(schema_version=0), "wrong_schema_version"),
    ],
)
def test_a_manifest_of_format_1_is_read_as_strictly(change: Callable[[dict[str, Any]], None], code: str) -> None:
    raw = json.loads(MANIFEST.read_bytes())
    change(raw)
    with pytest.raises(BundleError) as refused:
        parse_manifest(json.dumps(raw).encode())
    assert refused.value.code == code


def test_a_manifest_of_this_format_says_whether_it_has_a_gate() -> None:
    """A key that was left out is no decision to judge anything."""
    files = json.loads(MANIFEST.read_bytes())["files"]
    raw = {key: value for key, value in tiny_parts().manifest.items() if key != "gate"}
    with pytest.raises(BundleError, match="gate: Field required"):
        parse_manifest(json.dumps({**raw, "files": files}).encode())


def test_a_changed_file_of_format_1_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tiny" / "1.0.0" / "MODEL_CARD.md").write_text("other", encoding="ascii")
    with pytest.raises(BundleError) as refused:
        BundleStore(tmp_path).verify(REF)
    assert refused.value.code == "changed_file"
