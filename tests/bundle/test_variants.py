"""Variants in a bundle: what a manifest may say of them, how it serves by one, and the int8 network as a file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.manifest import Manifest, VariantBounds, VariantMeasured
from app.bundle.parse import manifest_bytes, parse_manifest
from app.bundle.store import BundleStore, write_bundle
from app.errors import BundleError
from tests.support.bundle_attacks import ATTACKS
from tests.support.bundle_victim import NETWORK, Attack, Victim
from tests.support.tiny_variants import int8, make_variants, variant, with_variants

INT8 = "network-int8.onnx"
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest of a bundle with two variants, as it stands in the file."""
    root = tmp_path_factory.mktemp("bundles")
    ref = make_variants(root, variant("onnxruntime-int8"), variant("openvino-bf16"))
    loaded: dict[str, Any] = json.loads((root / ref.name / ref.version / "manifest.json").read_text())
    return loaded


def parsed(raw: dict[str, Any], change: Change) -> Manifest:
    changed = copy.deepcopy(raw)
    change(changed["variants"][0])
    return parse_manifest(json.dumps(changed).encode())


def test_variants_are_read_and_written_alike(raw: dict[str, Any]) -> None:
    manifest = parse_manifest(json.dumps(raw).encode())
    assert [v.name for v in manifest.variants] == ["onnxruntime-int8", "openvino-bf16"]
    assert json.loads(manifest_bytes(manifest)) == raw
    assert manifest.variant("openvino-bf16") is manifest.variants[1]
    assert manifest.variant("onnxruntime-fp32") is None


def test_a_manifest_serves_by_a_variant_with_its_calibration_thresholds_and_tolerance(raw: dict[str, Any]) -> None:
    own = {"screening": {"pneumonia": -0.3}, "rule-in": {"pneumonia": 1.5}}
    fitted = {"method": "platt", "slope": [0.8], "intercept": [0.2]}
    manifest = parsed(raw, lambda v: v.update(calibration=fitted, thresholds=own))
    serving = manifest.serving(manifest.variants[0])
    assert {p.name: p.thresholds for p in serving.operating_points} == own
    assert serving.calibration.model_dump(mode="json") == fitted
    assert serving.tolerance("int8", logit=-3.0) == pytest.approx(1.2)
    assert "fp32" not in serving.tolerances
    # nothing else is another, and the manifest itself stays
    same = {"calibration", "operating_points", "tolerances"}
    assert serving.model_dump(exclude=same) == manifest.model_dump(exclude=same)
    assert [p.model_dump(exclude={"thresholds"}) for p in serving.operating_points] == [
        p.model_dump(exclude={"thresholds"}) for p in manifest.operating_points
    ]
    assert manifest.operating_points[0].thresholds == {"pneumonia": -0.4}


def test_where_nothing_was_fitted_the_bundle_s_own_hold(raw: dict[str, Any]) -> None:
    manifest = parsed(raw, lambda _: None)
    serving = manifest.serving(manifest.variants[1])
    assert serving.operating_points == manifest.operating_points
    assert serving.calibration == manifest.calibration
    assert manifest.serving(None) is manifest


@pytest.mark.parametrize(
    ("figures", "within"),
    [
        ({}, True),
        ({"logit_shift_max": 0.2, "flips": {"screening": 1, "rule-in": 1}}, True),  # the bounds themselves
        ({"logit_shift_max": 0.2001}, False),
        ({"flips": {"screening": 0, "rule-in": 2}}, False),  # the worst point counts
        ({"auroc_change": {"pneumonia": {"value": -0.009}}}, True),
        ({"auroc_change": {"pneumonia": {"value": -0.011}}}, False),
        ({"auroc_change": {"pneumonia": {"value": -0.002, "ci": [-0.011, 0.0]}}}, False),  # it may be that bad
        ({"auroc_change": {"a": {"value": 0.02}, "b": {"value": -0.02}}}, False),  # one class does not pay for another
        ({"auroc_change": {"pneumonia": {"value": 0.4, "ci": [0.3, 0.5]}}}, True),
    ],
)
def test_what_lies_within_bounds(figures: dict[str, Any], within: bool) -> None:
    bounds = VariantBounds(logit=0.2, flips=0.01, auroc_loss=0.01)
    measured = VariantMeasured.model_validate({**variant("openvino-bf16")["measured"], "n": 100, **figures})
    assert measured.within(bounds) is within


def replacing(**fields: Any) -> Change:
    return lambda v: v.update(fields)


def measuring(**fields: Any) -> Change:
    return lambda v: v["measured"].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replacing(admitted=False), "admitted exactly where"),
        (measuring(logit_shift_max=9.0), "admitted exactly where"),
        (measuring(flips={"screening": 0}), "flips are counted at every operating point"),
        (measuring(flips={"screening": 0, "rule-in": 0, "other": 0}), "flips are counted at every operating point"),
        (measuring(flips={"screening": -1, "rule-in": 0}), "greater than or equal to 0"),
        (measuring(auroc_change={"flu": {"value": 0.0}}), "the AUROC of an unknown class"),
        (measuring(auroc_change={}), "at least 1 item"),
        (measuring(n=0), "greater than or equal to 1"),
        (replacing(name="onnxruntime-fp32", precision="fp32", file="network.onnx"), "not that of the reference"),
        (replacing(name="fast"), "<engine>-<precision>"),
        (replacing(name="onnxruntime-bf16", precision="bf16", file="network.onnx"), "no bf16"),
        (replacing(name="openvino-int8", engine="openvino"), "segmentation fault"),
        (replacing(file="network.onnx"), "not the network of that precision"),
        (replacing(file="gate.onnx"), "Input should be"),
        (replacing(engine="tensorrt"), "Input should be"),
        (replacing(tolerance=0.6), "less than or equal to 0.5"),
        (replacing(bounds={"logit": 0.0, "flips": 0.01, "auroc_loss": 0.01}), "greater than 0"),
        (replacing(calibration={"method": "platt", "slope": [1.0, 1.0], "intercept": [0.0, 0.0]}), "parameters for 1 logits"),
        (replacing(thresholds={"screening": {"pneumonia": 0.0}}), "name every operating point"),
        (replacing(thresholds={"screening": {}, "rule-in": {"pneumonia": 1.0}}), "every class that has one there"),
        (replacing(thresholds={"screening": {"normal": 0.0}, "rule-in": {"pneumonia": 1.0}}), "every class that has one"),
        (replacing(note="quick"), "Extra inputs"),
    ],
)  # fmt: skip
def test_what_a_variant_cannot_say(raw: dict[str, Any], change: Change, words: str) -> None:
    with pytest.raises(BundleError) as refused:
        parsed(raw, change)
    assert refused.value.code == "invalid_manifest"
    assert words in str(refused.value)


def test_flips_are_at_most_one_per_film(raw: dict[str, Any]) -> None:
    loose = {"logit": 0.2, "flips": 1.0, "auroc_loss": 0.01}
    with pytest.raises(BundleError, match="at most one per film"):
        parsed(raw, lambda v: (v.update(bounds=loose, admitted=False), v["measured"]["flips"].update({"rule-in": 25})))


def test_two_variants_of_one_name(raw: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="different names"):
        parse_manifest(json.dumps({**raw, "variants": [raw["variants"][0]] * 2}).encode())


# the file


def test_the_int8_network_is_read_hashed_and_walked(tmp_path: Path) -> None:
    ref = make_variants(tmp_path, variant("onnxruntime-int8"))
    bundle = BundleStore(tmp_path).verify(ref)
    assert bundle.int8 == int8()
    assert bundle.manifest.files[INT8].size == len(int8()) < len(bundle.network)


def test_without_a_variant_that_runs_it_there_is_none(tmp_path: Path) -> None:
    ref = make_variants(tmp_path, variant("openvino-fp32"))
    assert BundleStore(tmp_path).verify(ref).int8 is None
    assert INT8 not in {path.name for path in (tmp_path / ref.name / ref.version).iterdir()}
    (tmp_path / ref.name / ref.version / INT8).write_bytes(int8())
    with pytest.raises(BundleError) as refused:
        BundleStore(tmp_path).verify(ref)
    assert refused.value.code == "extra_file"


@pytest.mark.parametrize("given", [True, False])
def test_the_file_is_written_exactly_where_a_variant_runs_it(tmp_path: Path, *, given: bool) -> None:
    parts, _ = with_variants([] if given else [variant("onnxruntime-int8")])
    with pytest.raises(BundleError, match=INT8) as refused:
        write_bundle(
            tmp_path,
            parts.manifest,
            network=parts.network,
            head=parts.head,
            reference=parts.reference,
            golden=parts.golden,
            model_card="-",
            int8=int8() if given else None,
        )
    assert refused.value.code == "invalid_manifest"
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        (INT8, b"", "malformed_network"),
        (INT8, "reference", "not_quantised"),
        (NETWORK, "int8", "forbidden_operator"),
    ],
)
def test_each_network_is_of_its_own_kind(tmp_path: Path, name: str, data: bytes | str, code: str) -> None:
    ref = make_variants(tmp_path, variant("onnxruntime-int8"))
    victim = Victim(tmp_path, ref)
    if data == "reference":
        data = victim.read(NETWORK)
    elif data == "int8":
        data = int8()
    assert isinstance(data, bytes)
    victim.write(name, data or b"\x00")
    with pytest.raises(BundleError) as refused:
        BundleStore(tmp_path).verify(ref)
    assert refused.value.code == code, refused.value


def test_an_int8_network_that_is_larger_than_the_reference_is_none(tmp_path: Path) -> None:
    ref = make_variants(tmp_path, variant("onnxruntime-int8"))
    victim = Victim(tmp_path, ref, INT8)
    model = victim.model()
    model.doc_string = "x" * (len(victim.read(NETWORK)) - len(int8()))
    victim.write_model(model)
    with pytest.raises(BundleError) as refused:
        BundleStore(tmp_path).verify(ref)
    assert refused.value.code == "oversized_file"
    assert INT8 in str(refused.value)


# what stops a network stops this one; those that make it larger than the reference are stopped by that
AIMED = [attack for attack in ATTACKS if attack.by == "store" and attack.code in {"external_data", "custom_operator"}]


@pytest.mark.parametrize("attack", AIMED, ids=lambda attack: attack.name)
def test_an_attack_on_the_int8_network_is_refused_by_its_code(attack: Attack, tmp_path: Path) -> None:
    ref = make_variants(tmp_path, variant("onnxruntime-int8"))
    attack.apply(Victim(tmp_path, ref, INT8))
    with pytest.raises(BundleError) as refused:
        BundleStore(tmp_path).verify(ref)
    assert refused.value.code == attack.code
    assert INT8 in str(refused.value)


def test_a_changed_int8_network_is_refused(tmp_path: Path) -> None:
    ref = make_variants(tmp_path, variant("onnxruntime-int8"))
    victim = Victim(tmp_path, ref)
    data = bytearray(victim.read(INT8))
    data[len(data) // 2] ^= 1
    victim.write(INT8, bytes(data), seal=False)
    with pytest.raises(BundleError) as refused:
        BundleStore(tmp_path).verify(ref)
    assert refused.value.code == "changed_file"
