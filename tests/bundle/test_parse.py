from __future__ import annotations

import json
from typing import Any

import pytest

from app.bundle.manifest import Manifest
from app.bundle.parse import manifest_bytes, parse_manifest, required_files, validate_manifest
from app.errors import BundleError
from tests.support.tiny_bundle import tiny_parts

ENTRY = {"size": 1, "sha256": "0" * 64}
FILES = dict.fromkeys(("network.onnx", "head.safetensors", "reference.npz", "golden.npz", "MODEL_CARD.md"), ENTRY)


def manifest(**changes: Any) -> Manifest:
    return validate_manifest({**tiny_parts().manifest, "files": FILES, **changes})


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_manifest_comes_back_from_its_bytes(task: Any) -> None:
    written = validate_manifest({**tiny_parts(task=task).manifest, "files": FILES})
    assert parse_manifest(manifest_bytes(written)) == written
    assert manifest_bytes(parse_manifest(manifest_bytes(written))) == manifest_bytes(written)


def test_plain_values_with_tuples_are_taken_as_json() -> None:
    dumped = manifest().model_dump()
    assert isinstance(dumped["classes"], tuple)
    assert validate_manifest(dumped) == manifest()


def test_the_head_is_left_out_only_without_explanation() -> None:
    assert required_files(manifest()) == set(FILES)
    none = {**tiny_parts().manifest["network"], "explanation": "none"}
    assert required_files(manifest(network=none)) == set(FILES) - {"head.safetensors"}


def test_the_message_names_the_place_of_the_fault() -> None:
    raw = json.loads(manifest_bytes(manifest()))
    raw["calibration"]["slope"] = [-1.0]
    raw["input"]["size"] = 5
    with pytest.raises(BundleError) as refused:
        parse_manifest(json.dumps(raw).encode())
    assert "calibration.platt.slope.0: Input should be greater than 0" in str(refused.value)
    assert "input.size" in str(refused.value)


def test_values_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(BundleError, match="not JSON"):
        validate_manifest({**tiny_parts().manifest, "files": {1, 2}})
    with pytest.raises(BundleError) as refused:
        validate_manifest({**tiny_parts().manifest, "files": {}, "review": {"borderline_margin": float("nan")}})
    assert refused.value.code == "invalid_manifest"
