from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundle.manifest import Manifest, Variant
from app.bundle.parse import validate_manifest
from app.bundle.store import BundleStore, VerifiedBundle
from app.domain import EngineInfo, NetworkOutput, Task
from app.errors import BundleError, InternalError
from app.inference.engine import OnnxRuntimeEngine
from app.selftest import choose_phantoms, golden_cases, self_test, threshold_distance
from tests.support.kinds_of_bundle import binary_sets, nih_labels, three_classes
from tests.support.tiny_bundle import make_tiny_bundle, small_phantom, tiny_parts
from tests.support.tiny_network import CLASSES
from tests.support.tiny_variants import make_variants, variant

INFO = EngineInfo("fake", "1", "fp32", 1)


@dataclass(frozen=True)
class Fixed:
    """An engine that gives one output, whatever it is shown."""

    logits: tuple[float, ...]
    info: EngineInfo = INFO

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        return NetworkOutput(np.array(self.logits, np.float32), np.zeros((16, 8, 8), np.float32))

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        return [self.run(tensor) for tensor in tensors]


@dataclass(frozen=True)
class Altered:
    """A real engine whose output is changed."""

    engine: OnnxRuntimeEngine
    logit_shift: float = 0.0
    feature_factor: float = 1.0
    fails: bool = False
    info: EngineInfo = INFO

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        if self.fails:
            raise InternalError from ValueError("no output")
        output = self.engine.run(tensor)
        logits = np.array([z + self.logit_shift * max(1.0, abs(z)) for z in output.logits.tolist()], np.float32)
        return NetworkOutput(logits, output.features * np.float32(self.feature_factor))

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        return [self.run(tensor) for tensor in tensors]


@pytest.fixture
def bundle(tmp_path: Path) -> VerifiedBundle:
    return BundleStore(tmp_path).verify(make_tiny_bundle(tmp_path))


def refusal(bundle: VerifiedBundle, engine: Any) -> BundleError:
    with pytest.raises(BundleError) as refused:
        self_test(bundle, engine)
    return refused.value


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("explanation", ["gap_linear", "gap_mlp_relu", "none"])
def test_a_sound_bundle_passes(tmp_path: Path, task: Task, explanation: Any) -> None:
    bundle = BundleStore(tmp_path).verify(make_tiny_bundle(tmp_path, task=task, explanation=explanation))
    self_test(bundle, OnnxRuntimeEngine(bundle.network))


@pytest.mark.parametrize("make", [binary_sets, three_classes, nih_labels])
def test_bundles_of_every_rule_and_calibration_pass_and_keep_their_distance(tmp_path: Path, make: Any) -> None:
    bundle = BundleStore(tmp_path).verify(make(tmp_path))
    engine = OnnxRuntimeEngine(bundle.network)
    self_test(bundle, engine)
    assert threshold_distance(bundle.manifest, engine, bundle.golden["logits_0"]) >= 10


def test_a_golden_prediction_set_is_part_of_the_proof(tmp_path: Path) -> None:
    """Label and findings stay the same where only the absent class enters or leaves the set."""
    bundle = BundleStore(tmp_path).verify(binary_sets(tmp_path))
    decisions = json.loads(str(bundle.golden["decisions_0"]))
    assert decisions["sets"]["prediction_set"]
    decisions["sets"]["prediction_set"] = []
    other = np.array(json.dumps(decisions, sort_keys=True, separators=(",", ":")))
    changed = replace(bundle, golden={**bundle.golden, "decisions_0": other})
    assert refusal(changed, OnnxRuntimeEngine(bundle.network)).code == "golden_mismatch"


def test_a_difference_within_the_tolerance_passes(bundle: VerifiedBundle) -> None:
    self_test(bundle, Altered(OnnxRuntimeEngine(bundle.network), logit_shift=0.9e-3))


def test_a_difference_beyond_the_tolerance_is_named(tmp_path: Path) -> None:
    """Without a head, so that nothing else can notice."""
    bundle = BundleStore(tmp_path).verify(make_tiny_bundle(tmp_path, explanation="none"))
    error = refusal(bundle, Altered(OnnxRuntimeEngine(bundle.network), logit_shift=2e-3))
    logit = abs(float(bundle.golden["logits_0"][0]))
    assert error.code == "golden_mismatch"
    assert "golden 0: logit 0 is" in error.message
    assert f"tolerance {1e-3 * max(1.0, logit):.3g}" in error.message


def test_a_head_that_does_not_follow_the_network_is_named(bundle: VerifiedBundle) -> None:
    error = refusal(bundle, Altered(OnnxRuntimeEngine(bundle.network), feature_factor=1.5))
    assert error.code == "head_mismatch"
    assert "golden 0: logit 0 is" in error.message


def test_an_engine_without_an_output_is_a_mismatch(bundle: VerifiedBundle) -> None:
    error = refusal(bundle, Altered(OnnxRuntimeEngine(bundle.network), fails=True))
    assert (error.code, error.message) == ("golden_mismatch", "golden 0: no output")


def test_an_engine_of_another_precision_needs_its_own_tolerance(bundle: VerifiedBundle) -> None:
    engine = Altered(OnnxRuntimeEngine(bundle.network), info=replace(INFO, precision="int8"))
    assert refusal(bundle, engine).code == "invalid_manifest"


def test_other_features_than_the_manifest_says(bundle: VerifiedBundle) -> None:
    network = bundle.manifest.network.model_copy(update={"features": (16, 4, 4)})
    changed = replace(bundle, manifest=bundle.manifest.model_copy(update={"network": network}))
    assert refusal(changed, OnnxRuntimeEngine(bundle.network)).code == "wrong_inputs_outputs"


def test_the_last_golden_is_checked_like_the_first(bundle: VerifiedBundle) -> None:
    golden = {**bundle.golden, "logits_2": bundle.golden["logits_2"] + np.float32(0.5)}
    error = refusal(replace(bundle, golden=golden), OnnxRuntimeEngine(bundle.network))
    assert (error.code, error.message.split(":")[0]) == ("golden_mismatch", "golden 2")


# distance from thresholds


def manifest(task: Task, **changes: Any) -> Manifest:
    return validate_manifest({**tiny_parts(task=task).manifest, "files": {}, **changes})


@pytest.mark.parametrize(
    ("logit", "distance"),
    [
        (2.0, 0.8 / 0.002),  # 1.2 is nearest; the tolerance grows with the logit
        (0.5, 0.7 / 0.001),
        (-0.41, 0.01 / 0.001),
        (1.2, 0.0),
    ],
)
def test_distance_of_a_binary_logit(logit: float, distance: float) -> None:
    have = threshold_distance(manifest("binary"), Fixed((logit,)), np.array([logit], np.float32))
    assert have == pytest.approx(distance, abs=1e-3)


def test_a_temperature_is_allowed_for() -> None:
    """z / T is compared with the threshold, the tolerance is one of z."""
    cooled = manifest("binary", calibration={"method": "temperature", "temperature": 2.0})
    have = threshold_distance(cooled, Fixed((0.6,)), np.array([0.6], np.float32))
    assert have == pytest.approx((0.3 - -0.4) * 2.0 / 0.001, rel=1e-5)


def test_each_label_has_its_own_temperature() -> None:
    """A label with a low temperature does not make the others' distances small: margin 0.5 of threshold 0, T = 20, is 10 in logits."""
    names = list(manifest("multilabel").classes)
    point = {"name": "all", "rule": "per_label", "target": "x", "thresholds": dict.fromkeys(names, 0.0)}
    cooled = manifest(
        "multilabel",
        calibration={"method": "vector_temperature", "temperatures": [20.0] + [0.05] * (len(names) - 1)},
        operating_points=[point],
        default_operating_point="all",
    )
    logits = np.array([10.0] + [0.9] * (len(names) - 1), np.float32)
    have = threshold_distance(cooled, Fixed(tuple(map(float, logits))), logits)
    assert have == pytest.approx(0.9 / (0.001 * 10.0), rel=1e-5)


def test_distance_of_multiclass_logits_counts_the_runner_up() -> None:
    point = {"name": "argmax", "rule": "argmax", "target": "x"}
    only = manifest("multiclass", operating_points=[point], default_operating_point="argmax")
    logits = np.array([0.3, 0.29, -5.0], np.float32)
    assert threshold_distance(only, Fixed((0.0,)), logits) == pytest.approx(0.01 / 0.01, rel=1e-4)


def test_two_findings_close_together_are_near() -> None:
    """Far from every threshold, but which of the two is the label hangs on the last digit."""
    labels = manifest("multilabel")
    cases = [
        ((2.0, 2.0001, -3.0), True),
        ((2.0, 3.0, -3.0), False),
        ((2.0, -2.0, -3.0), False),
        ((-2.0, -2.0, -3.0), False),
    ]
    for logits, near in cases:
        if near:
            with pytest.raises(BundleError, match="two findings so close") as refused:
                golden_cases(labels, Fixed(logits), [small_phantom(1)])
            assert refused.value.code == "golden_near_threshold"
        else:
            assert golden_cases(labels, Fixed(logits), [small_phantom(1)])


def test_phantoms_near_a_threshold_are_passed_over() -> None:
    parts = tiny_parts()
    engine = OnnxRuntimeEngine(parts.network)
    candidates = [small_phantom(1_000 + i) for i in range(4)]
    plain = manifest("binary")
    logit = float(golden_cases(plain, engine, candidates[:1])["logits_0"][0])
    points = [{"name": "near", "rule": "threshold", "target": "x", "thresholds": {"pneumonia": logit + 0.005}}]
    moved = manifest("binary", operating_points=points, default_operating_point="near")
    with pytest.raises(BundleError, match=r"golden 0 lies .* tolerances from a threshold") as refused:
        golden_cases(moved, engine, candidates[:1])
    assert refused.value.code == "golden_near_threshold"
    chosen = choose_phantoms(moved, engine, candidates, 2)
    assert [any(c is p for p in candidates[1:]) for c in chosen] == [True, True]
    with pytest.raises(BundleError, match="only 0 of the candidates"):
        choose_phantoms(moved, engine, candidates[:1], 1)


def test_golden_cases_hold_what_the_format_says() -> None:
    engine = OnnxRuntimeEngine(tiny_parts().network)
    deep = small_phantom(1_001).astype(np.uint16) * 16  # 12 bits
    cases = golden_cases(manifest("binary"), engine, [small_phantom(1_001), deep])
    assert len(cases) == 10
    assert cases["phantom_1"].dtype == np.uint16
    assert len(str(cases["resized_sha256_0"])) == 64
    assert cases["tensor_0"].shape == (1, 64, 64)
    decisions = json.loads(str(cases["decisions_0"]))
    assert set(decisions) == {"screening", "rule-in"}
    assert set(decisions["screening"]) == {"label", "positive"}
    assert decisions["screening"]["label"] in CLASSES["binary"]


@pytest.mark.parametrize("count", [0, 33])
def test_the_number_of_goldens_is_bounded(count: int) -> None:
    with pytest.raises(BundleError, match="golden cases, wanted 1 to 32"):
        golden_cases(manifest("binary"), Fixed((5.0,)), [small_phantom(1)] * count)


# the gate


@pytest.fixture
def gated(tmp_path: Path) -> VerifiedBundle:
    return BundleStore(tmp_path / "gated").verify(make_tiny_bundle(tmp_path / "gated", gate={}))


def gate_engine(bundle: VerifiedBundle) -> OnnxRuntimeEngine:
    assert bundle.gate is not None
    return OnnxRuntimeEngine(bundle.gate.network)


def test_the_network_of_a_gate_is_tested_like_the_classifier(gated: VerifiedBundle) -> None:
    engine, gate = OnnxRuntimeEngine(gated.network), gate_engine(gated)
    self_test(gated, engine, gate)
    self_test(gated, engine, Altered(gate, logit_shift=0.9e-3))
    for altered, value in ((Altered(gate, logit_shift=2e-3), "logit"), (Altered(gate, feature_factor=1.5), "feature")):
        with pytest.raises(BundleError, match=rf"golden 0: gate {value} \d+ is") as refused:
            self_test(gated, engine, altered)
        assert refused.value.code == "golden_mismatch"


def test_a_gate_that_gives_no_output_is_a_mismatch(gated: VerifiedBundle) -> None:
    with pytest.raises(BundleError) as refused:
        self_test(gated, OnnxRuntimeEngine(gated.network), Altered(gate_engine(gated), fails=True))
    assert refused.value.code == "golden_mismatch"


def test_a_gate_of_other_shapes_is_named(gated: VerifiedBundle) -> None:
    with pytest.raises(BundleError) as refused:
        self_test(gated, OnnxRuntimeEngine(gated.network), Fixed((1.0, 2.0)))
    assert refused.value.code == "wrong_inputs_outputs"


def test_a_gate_cannot_be_left_out_of_the_test(gated: VerifiedBundle, bundle: VerifiedBundle) -> None:
    with pytest.raises(ValueError, match="exactly where there is an engine"):
        self_test(gated, OnnxRuntimeEngine(gated.network))
    with pytest.raises(ValueError, match="exactly where there is an engine"):
        self_test(bundle, OnnxRuntimeEngine(bundle.network), gate_engine(gated))


def conformal(task: Task, **thresholds: float) -> Manifest:
    point = {"name": "sets", "rule": "conformal", "target": "x", "thresholds": thresholds}
    calibration = {"method": "none"}
    return manifest(task, operating_points=[point], default_operating_point="sets", calibration=calibration)


@pytest.mark.parametrize(
    ("logit", "gap"),
    [
        (3.0, 1.0),
        (-0.5, 0.5),
        (-1.25, 0.25),
        (0.25, 0.25),
    ],  # pneumonia at 2, normal at -logit = 1.5, and the label at 0
)
def test_the_distance_of_a_binary_set_counts_both_thresholds_and_the_label(logit: float, gap: float) -> None:
    sets = conformal("binary", normal=1.5, pneumonia=2.0)
    logits = np.array([logit], np.float32)
    assert threshold_distance(sets, Fixed((0.0,)), logits) == pytest.approx(gap / (1e-3 * max(1.0, abs(logit))))


def test_the_distance_is_taken_with_the_lowest_temperature() -> None:
    point = {"name": "argmax", "rule": "argmax", "target": "x"}
    only = manifest(
        "multiclass",
        operating_points=[point],
        default_operating_point="argmax",
        calibration={"method": "vector_temperature", "temperatures": [2.0, 0.5, 4.0]},
    )
    # scaled logits 1, 0, 0: the gap is 1; each of them may move by 1e-3 * 2 / 0.5
    distance = threshold_distance(only, Fixed((0.0,)), np.array([2.0, 0.0, 0.0], np.float32))
    assert distance == pytest.approx(1.0 * 0.5 / (2.0 * 2e-3))


# variants: the goldens are the reference's


def of_variant(root: Path, **fields: Any) -> tuple[VerifiedBundle, OnnxRuntimeEngine, Variant]:
    bundle = BundleStore(root).verify(make_variants(root, variant("onnxruntime-int8", **fields)))
    assert bundle.int8 is not None
    return bundle, OnnxRuntimeEngine(bundle.int8, precision="int8"), bundle.manifest.variants[0]


def test_a_variant_is_held_to_the_goldens_by_its_own_tolerance(tmp_path: Path) -> None:
    bundle, engine, own = of_variant(tmp_path)
    self_test(bundle, engine, variant=own)
    with pytest.raises(BundleError) as refused:  # by the reference's there is none for it
        self_test(bundle, engine)
    assert refused.value.code == "invalid_manifest"
    with pytest.raises(BundleError, match="they differ by") as refused:
        self_test(bundle, Altered(engine, logit_shift=0.9, info=engine.info), variant=own)
    assert refused.value.code in {"golden_mismatch", "head_mismatch"}


def test_an_engine_of_another_precision_is_not_the_variant(tmp_path: Path) -> None:
    bundle, _, own = of_variant(tmp_path)
    with pytest.raises(BundleError, match="no tolerance for fp32"):
        self_test(bundle, OnnxRuntimeEngine(bundle.network), variant=own)


def test_the_thresholds_of_a_variant_keep_the_golden_decisions(tmp_path: Path) -> None:
    """Golden 1 lies at 0.24, by 0.64 above the threshold of `screening`; the tolerance there is 0.4."""

    def screening(margin: float) -> dict[str, Any]:
        return {"thresholds": {"screening": {"pneumonia": margin}, "rule-in": {"pneumonia": 1.2}}}

    bundle, engine, own = of_variant(tmp_path / "a", **screening(-0.5))
    assert float(bundle.golden["logits_1"][0]) == pytest.approx(0.24, abs=0.01)
    self_test(bundle, engine, variant=own)
    bundle, engine, own = of_variant(tmp_path / "b", **screening(0.3))  # so near that the tolerance allows either
    self_test(bundle, engine, variant=own)
    bundle, engine, own = of_variant(tmp_path / "c", **screening(0.9))  # golden 1 would be negative
    with pytest.raises(BundleError, match="golden 1") as refused:
        self_test(bundle, engine, variant=own)
    assert refused.value.code == "golden_mismatch"
