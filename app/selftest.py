"""The golden self-test: a bundle, an engine and this machine's preprocessing together give the answers that were exported.

golden.npz holds generated phantoms, never films of patients. For each: phantom -> hash of the resized uint8 -> tensor -> logits ->
decision at every operating point. The logits also follow from the pooled features through head.safetensors, which ties the
explanation to the network. A gate that looks at pictures is held the same way: what its network gave for each phantom. Goldens keep
a distance from every threshold, so that rounding cannot turn a decision.

A variant of the network (another engine or precision) is held to the same goldens, which the reference made: its logits by its own
tolerance, and its decisions, by its own calibration and thresholds, wherever the exported logits lie further from these than that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.contents import MAX_GOLDENS
from app.bundle.manifest import Manifest, OperatingPoint, Variant
from app.bundle.store import VerifiedBundle
from app.decision import decide, margins, scaled_logits, temperatures
from app.domain import NetworkOutput, PreparedInput, Radiograph
from app.errors import BundleError, CxrError
from app.explain import Head, pooled
from app.inference.engine import Engine
from app.preprocessing import network_tensor, prepare

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

THRESHOLD_DISTANCE = 10.0  # goldens lie at least this many tolerances from every threshold
TENSOR_TOLERANCE = 1e-5  # normalised units; one gray level is more than 100 times this


def golden_cases(
    manifest: Manifest, engine: Engine, phantoms: Sequence[Pixels], gate_engine: Engine | None = None
) -> dict[str, NDArray[Any]]:
    """The content of golden.npz, as the exporting machine computes it.

    Args:
        manifest: of the bundle to be; `files` may still be empty.
        engine: runs the exported network.
        phantoms: uint8 or uint16 [H, W] each; `choose_phantoms` picks such that lie far from every threshold.
        gate_engine: runs the gate's network, where the manifest has a gate that looks at pictures.

    Raises:
        BundleError: `golden_near_threshold`; `invalid_manifest` without a tolerance for the engine's precision.
    """
    if not 1 <= len(phantoms) <= MAX_GOLDENS:
        raise BundleError("malformed_tensors", f"{len(phantoms)} golden cases, wanted 1 to {MAX_GOLDENS}")
    cases: dict[str, NDArray[Any]] = {}
    for i, pixels in enumerate(phantoms):
        prepared, output = _run(manifest, engine, pixels)
        near = _nearness(manifest, engine, output.logits)
        if near is not None:
            raise BundleError("golden_near_threshold", f"golden {i} {near}; choose another phantom")
        cases[f"phantom_{i}"] = np.array(pixels)
        cases[f"resized_sha256_{i}"] = np.array(_sha256(prepared.resized))
        cases[f"tensor_{i}"] = prepared.tensor
        cases[f"logits_{i}"] = output.logits
        cases[f"decisions_{i}"] = np.array(_decisions(manifest, output.logits))
        gate = _run_gate(manifest, gate_engine, pixels)
        if gate is not None:
            cases[f"gate_logits_{i}"] = gate.logits
            cases[f"gate_pooled_{i}"] = pooled(gate.features)
    return cases


def choose_phantoms(manifest: Manifest, engine: Engine, candidates: Iterable[Pixels], count: int) -> list[Pixels]:
    """The first `count` candidates whose logits keep the distance from every threshold.

    Raises:
        BundleError: `golden_near_threshold` if there are not that many.
    """
    chosen: list[Pixels] = []
    for pixels in candidates:
        if _nearness(manifest, engine, _run(manifest, engine, pixels)[1].logits) is None:
            chosen.append(pixels)
        if len(chosen) == count:
            return chosen
    raise BundleError("golden_near_threshold", f"only {len(chosen)} of the candidates lie far enough from a threshold")


def self_test(
    bundle: VerifiedBundle, engine: Engine, gate_engine: Engine | None = None, *, variant: Variant | None = None
) -> None:
    """Run every golden case through preprocessing, engine, head and decision, and through the gate's network where the bundle has
    one. Also warms the engines.

    Args:
        variant: what `engine` runs; None for the reference.

    Raises:
        BundleError: `head_mismatch` (head and network disagree), `golden_near_threshold` (a golden that proves nothing),
            `golden_mismatch` (anything else; the message names the case, the difference and the tolerance),
            `invalid_manifest` (no tolerance for the engine's precision).
    """
    head = Head.from_tensors(bundle.manifest.network.explanation, bundle.head)
    subject = _Subject(bundle.manifest.serving(variant), engine, head, reference=variant is None)
    for i in range(sum(name.startswith("phantom_") for name in bundle.golden)):
        ending = f"_{i}"
        case = {name.removesuffix(ending): values for name, values in bundle.golden.items() if name.endswith(ending)}
        try:
            _check_case(subject, case, f"golden {i}")
            _check_gate(bundle.manifest, gate_engine, case, f"golden {i}")
        except BundleError:
            raise
        except CxrError as error:  # the network gave no usable output
            raise BundleError("golden_mismatch", f"golden {i}: {error.__cause__ or error}") from error


def threshold_distance(manifest: Manifest, engine: Engine, logits: NDArray[np.float32]) -> float:
    """Smallest distance of a margin from a threshold at any operating point, in tolerances of the engine.

    Where a rule compares classes with each other (argmax, conformal), the gap between the two highest counts. A change of every logit
    by the tolerance moves a margin by at most tolerance / T, T the class's own temperature (binary, multilabel), or twice that with
    the lowest temperature of all (multiclass).
    """
    scaled = scaled_logits(logits, manifest.calibration)
    values = [float(value) for value in margins(manifest.task, scaled)]
    if manifest.task == "binary":
        values.insert(0, -values[0])
    own = np.broadcast_to(temperatures(manifest.calibration), (len(values),))
    lowest, moves = float(own.min()), 2.0 if manifest.task == "multiclass" else 1.0
    gaps: list[float] = []
    for point in manifest.operating_points:
        for name, limit in point.thresholds.items():
            k = manifest.classes.index(name)
            gaps.append(abs(values[k] - limit) * (lowest if manifest.task == "multiclass" else float(own[k])))
        if point.rule in {"argmax", "conformal"}:
            second, first = (-abs(values[1]), 0.0) if manifest.task == "binary" else sorted(map(float, scaled))[-2:]
            gaps.append((first - second) * lowest)
    return min(gaps) / (moves * _tolerance(manifest, engine, float(np.abs(logits).max())))


@dataclass(frozen=True)
class _Subject:
    """What is tested. manifest: as it serves with this engine; reference: the goldens are its own."""

    manifest: Manifest
    engine: Engine
    head: Head
    reference: bool


def _check_case(subject: _Subject, case: Mapping[str, NDArray[Any]], what: str) -> None:
    manifest, engine = subject.manifest, subject.engine
    prepared, output = _run(manifest, engine, case["phantom"])
    if _sha256(prepared.resized) != str(case["resized_sha256"]):
        raise BundleError("golden_mismatch", f"{what}: the resized image differs from the exported one; the imaging "
                          "library or the input specification has changed")  # fmt: skip
    off = _worst(prepared.tensor, case["tensor"])
    if off > TENSOR_TOLERANCE:
        raise BundleError("golden_mismatch", f"{what}: the tensor differs by {off:.3g}, tolerance {TENSOR_TOLERANCE:g}")
    _check_head(manifest, engine, subject.head, output, what)
    _check_values(manifest, engine, output.logits, case["logits"], f"{what}: logit")
    near = _nearness(manifest, engine, case["logits"]) if subject.reference else None
    if near is not None:
        raise BundleError("golden_near_threshold", f"{what} {near}; export with another phantom")
    if not subject.reference and _nearness(manifest, engine, case["logits"], 1.0) is not None:
        return  # within its tolerance the decision of this variant may be either
    for source, logits in (("exported", case["logits"]), ("computed", output.logits)):
        decisions = _decisions(manifest, logits)
        if decisions != str(case["decisions"]):
            raise BundleError(
                "golden_mismatch",
                f"{what}: the {source} logits decide {decisions[:500]}, not {str(case['decisions'])[:500]}",
            )


def _check_head(manifest: Manifest, engine: Engine, head: Head, output: NetworkOutput, what: str) -> None:
    if output.features.shape != manifest.network.features or output.logits.shape != (manifest.network.logits,):
        raise BundleError(
            "wrong_inputs_outputs", f"{what}: logits {output.logits.shape}, features {output.features.shape}"
        )
    if not head.available:
        return
    follows = head.logits(pooled(output.features))
    for k, (from_head, from_network) in enumerate(zip(follows, output.logits, strict=True)):
        tolerance = _tolerance(manifest, engine, float(from_network))
        off = abs(float(from_head) - float(from_network))
        if not off <= tolerance:
            raise BundleError("head_mismatch", f"{what}: logit {k} is {from_network:.6g} from the network and {from_head:.6g} "
                              f"from the head; they differ by {off:.3g}, tolerance {tolerance:.3g}")  # fmt: skip


def _check_gate(manifest: Manifest, engine: Engine | None, case: Mapping[str, NDArray[Any]], what: str) -> None:
    output, picture = _run_gate(manifest, engine, case["phantom"]), manifest.picture_gate
    if output is None or engine is None or picture is None:
        return
    if output.logits.shape != (len(picture.poses),) or output.features.shape != picture.features:
        raise BundleError(
            "wrong_inputs_outputs", f"{what}: gate logits {output.logits.shape}, features {output.features.shape}"
        )
    _check_values(manifest, engine, output.logits, case["gate_logits"], f"{what}: gate logit")
    _check_values(manifest, engine, pooled(output.features), case["gate_pooled"], f"{what}: gate feature")


def _check_values(
    manifest: Manifest, engine: Engine, computed: NDArray[Any], exported: NDArray[Any], what: str
) -> None:
    for k, (have, want) in enumerate(zip(computed, exported, strict=True)):
        tolerance, off = _tolerance(manifest, engine, float(want)), abs(float(have) - float(want))
        if not off <= tolerance:
            raise BundleError("golden_mismatch", f"{what} {k} is {have:.6g}, exported as {want:.6g}; they differ by "
                              f"{off:.3g}, tolerance {tolerance:.3g}")  # fmt: skip


def _nearness(
    manifest: Manifest, engine: Engine, logits: NDArray[np.float32], wanted: float = THRESHOLD_DISTANCE
) -> str | None:
    """What a change of the logits by `wanted` tolerances could turn, in words, or None if the case is a proof."""
    distance = threshold_distance(manifest, engine, logits)
    if not distance >= wanted:
        return f"lies {distance:.3g} tolerances from a threshold, wanted at least {wanted:g}"
    shift = wanted * _tolerance(manifest, engine, float(np.abs(logits).max()))
    for point in manifest.operating_points:
        if point.rule == "per_label" and _label_turns(manifest, point, logits, shift):
            return f"has two findings so close at {point.name!r} that {wanted:g} tolerances change the label"
    return None


def _label_turns(manifest: Manifest, point: OperatingPoint, logits: NDArray[np.float32], shift: float) -> bool:
    """Whether another finding becomes the label when it rises by `shift` and the label falls by it."""
    decision = decide(logits, manifest, point)
    if not decision.positive:
        return False
    first = manifest.classes.index(decision.label)
    for name in decision.positive:
        moved = logits.copy()
        moved[first] -= shift
        moved[manifest.classes.index(name)] += shift
        if decide(moved, manifest, point).label != decision.label:
            return True
    return False


def _run(manifest: Manifest, engine: Engine, pixels: Pixels) -> tuple[PreparedInput, NetworkOutput]:
    prepared = prepare(_film(pixels), manifest.input)
    return prepared, engine.run(prepared.tensor)


def _run_gate(manifest: Manifest, engine: Engine | None, pixels: Pixels) -> NetworkOutput | None:
    """What the gate's network gives, None without a gate that looks at pictures.

    Raises:
        ValueError: an engine without such a gate, or such a gate without an engine.
    """
    picture = manifest.picture_gate
    if picture is None and engine is None:
        return None
    if picture is None or engine is None:
        raise ValueError("the manifest's gate looks at pictures exactly where there is an engine for its network")
    return engine.run(network_tensor(_film(pixels), picture.input))


def _film(pixels: Pixels) -> Radiograph:
    return Radiograph(pixels=pixels, sha256=_sha256(pixels), format="png")


def _decisions(manifest: Manifest, logits: NDArray[np.float32]) -> str:
    """Canonical JSON: operating point -> label, positive findings, and the prediction set of a conformal point."""
    decisions = {}
    for point in manifest.operating_points:
        decision = decide(logits, manifest, point)
        decisions[point.name] = {"label": decision.label, "positive": list(decision.positive)}
        if decision.prediction_set is not None:
            decisions[point.name]["prediction_set"] = list(decision.prediction_set)
    return json.dumps(decisions, sort_keys=True, separators=(",", ":"))


def _tolerance(manifest: Manifest, engine: Engine, logit: float) -> float:
    if engine.info.precision not in manifest.tolerances:
        raise BundleError("invalid_manifest", f"the manifest has no tolerance for {engine.info.precision}")
    return manifest.tolerance(engine.info.precision, logit)


def _worst(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def _sha256(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
