"""A small but real bundle, made from a seed: a three-layer convolution network at 64 px with random weights, scaled so that phantoms
fall on both sides of its thresholds. It judges nothing; it is written, verified, run and explained like a shipped one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from app.bundle.gate_spec import Action
from app.bundle.input_spec import InputSpec
from app.bundle.manifest import SCHEMA_VERSION, Manifest
from app.bundle.store import BundleRef, GateParts, write_bundle
from app.decision import decide
from app.domain import Radiograph, Task
from app.drift import reference_arrays
from app.explain import pooled
from app.imaging.phantom import phantom
from app.inference.engine import OnnxRuntimeEngine
from app.preprocessing import prepare
from app.selftest import choose_phantoms, golden_cases
from tests.support.tiny_gate import TinyGate, tiny_gate
from tests.support.tiny_network import (
    CHANNELS,
    CLASSES,
    GRID,
    SIZE,
    Explanation,
    random_weights,
    tiny_network,
)

GOLDENS = 3
REFERENCE_FILMS = 24
DATA = "generated phantoms"


@dataclass(frozen=True)
class TinyParts:
    """Everything `write_bundle` takes, before it is written."""

    manifest: Mapping[str, Any]
    network: bytes
    head: Mapping[str, NDArray[np.float32]]
    reference: Mapping[str, NDArray[Any]]
    golden: Mapping[str, NDArray[Any]]
    model_card: str
    gate: GateParts | None = None


def make_tiny_bundle(
    root: Path,
    *,
    name: str = "tiny",
    version: str = "1.0.0",
    task: Task = "binary",
    explanation: Explanation = "gap_linear",
    seed: int = 0,
    calibration: Mapping[str, Any] | None = None,
    latest: bool = False,
    gate: Mapping[str, Action] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> BundleRef:
    """Write a tiny bundle to `root` and return its reference; it verifies and passes its golden self-test.

    Bundles of different seeds have different weights and digests, those of different versions only another digest.

    Args:
        root: bundles folder, made where missing.
        task: binary (normal, pneumonia; points `screening`, `rule-in`), multiclass (normal, pneumonia, tuberculosis; `argmax`,
            `safety-first`) or multilabel (atelectasis, cardiomegaly, effusion; `balanced`).
        explanation: kind of head; a multi-layer head for `gap_mlp_relu`; `none` leaves head.safetensors out.
        calibration: manifest value; default Platt (binary), temperature (multiclass), isotonic (multilabel).
        latest: also write `root/latest`.
        gate: None for a bundle that judges anything; else it has the gate of `tiny_gate`, with these actions in place of its own,
            and is meant for patients of 1 to 5 years. Such a bundle takes phantoms and refuses other pictures.
        fields: manifest fields in place of those above; the network follows `classes` and the channels of `input`, of size 64.
    """
    parts = tiny_parts(name, version, task, explanation, seed, calibration, gate, fields)
    ref = write_tiny(root, parts)
    if latest:
        (root / "latest").write_text(f"{ref}\n", encoding="ascii")
    return ref


def write_tiny(root: Path, parts: TinyParts) -> BundleRef:
    return write_bundle(
        root,
        parts.manifest,
        network=parts.network,
        head=parts.head,
        reference=parts.reference,
        golden=parts.golden,
        model_card=parts.model_card,
        gate=parts.gate,
    )


def tiny_parts(
    name: str = "tiny",
    version: str = "1.0.0",
    task: Task = "binary",
    explanation: Explanation = "gap_linear",
    seed: int = 0,
    calibration: Mapping[str, Any] | None = None,
    gate: Mapping[str, Action] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> TinyParts:
    """The parts of a tiny bundle, in memory. Made once per process and set of arguments."""
    return _parts(
        name, version, task, explanation, seed, json.dumps(calibration), json.dumps(gate), json.dumps(fields or {})
    )


@lru_cache(maxsize=32)
def _parts(
    name: str,
    version: str,
    task: Task,
    explanation: Explanation,
    seed: int,
    calibration_json: str,
    gate_json: str,
    fields_json: str,
) -> TinyParts:
    fields = _manifest(name, version, task, explanation, seed, json.loads(fields_json))
    network, head = _network(task, explanation, seed, json.dumps({key: fields[key] for key in ("classes", "input")}))
    if calibration_json != "null":
        fields["calibration"] = json.loads(calibration_json)
    gate: TinyGate | None = None
    if gate_json != "null":
        gate = tiny_gate(network, InputSpec.model_validate(fields["input"]), json.loads(gate_json))
        fields["gate"] = gate.spec
        fields["intended_use"]["age_years"] = [1, 5]
    manifest = Manifest.model_validate({**fields, "files": {}})
    engine = OnnxRuntimeEngine(network)
    gate_engine = OnnxRuntimeEngine(gate.parts.network) if gate is not None else None
    candidates = [small_phantom(1_000 + i) for i in range(12)]
    golden = golden_cases(manifest, engine, choose_phantoms(manifest, engine, candidates, GOLDENS), gate_engine)
    return TinyParts(
        manifest=fields,
        network=network,
        head=head if explanation != "none" else {},
        reference=_reference(manifest, engine),
        golden=golden,
        model_card=f"# {name} {version}\n\nRandom weights, for tests only. Judges nothing.\n",
        gate=gate.parts if gate is not None else None,
    )


def small_phantom(seed: int, *, opacity: bool | None = None) -> NDArray[np.uint8]:
    """A phantom of 144 x 128 px, every second one with an opacity unless said otherwise."""
    return phantom(seed, height=144, width=128, opacity=bool(seed % 2) if opacity is None else opacity)


@lru_cache(maxsize=32)
def _network(
    task: Task, explanation: Explanation, seed: int, shape_json: str
) -> tuple[bytes, Mapping[str, NDArray[np.float32]]]:
    """Network and head; each logit has mean 0 and standard deviation 2 over a dozen phantoms. shape: the manifest's classes and input."""
    shape = json.loads(shape_json)
    spec = InputSpec.model_validate(shape["input"])
    count = 1 if task == "binary" else len(shape["classes"])
    weights = random_weights(task, explanation, seed, channels=spec.channels, logits=count)
    engine = OnnxRuntimeEngine(tiny_network(weights, logits=count).SerializeToString())
    films = [prepare(_film(small_phantom(2_000 + i)), spec).tensor for i in range(12)]
    logits = np.stack([engine.run(film).logits for film in films]).astype(np.float64)
    last = 1 if explanation == "gap_mlp_relu" else 0
    scale = 2.0 / logits.std(axis=0)
    weights[f"head{last}.weight"] = (weights[f"head{last}.weight"] * scale[:, None]).astype(np.float32)
    bias = (weights[f"head{last}.bias"] - logits.mean(axis=0)) * scale
    weights[f"head{last}.bias"] = bias.astype(np.float32)
    head = {key.removeprefix("head"): values for key, values in weights.items() if key.startswith("head")}
    if explanation != "gap_mlp_relu":
        head = {key.removeprefix("0."): values for key, values in head.items()}
    return tiny_network(weights, logits=count).SerializeToString(), MappingProxyType(head)


def _film(pixels: NDArray[np.uint8]) -> Radiograph:
    return Radiograph(pixels=pixels, sha256="0" * 64, format="png")


def _reference(manifest: Manifest, engine: OnnxRuntimeEngine) -> dict[str, NDArray[Any]]:
    names = ("mean", "std", "aspect", "dark_fraction", "bright_fraction", "sharpness")
    statistics: dict[str, list[float]] = {name: [] for name in names}
    confidences: list[float] = []
    labels: list[str | tuple[str, ...]] = []
    features = []
    point = manifest.operating_point(None)
    assert point is not None
    for i in range(REFERENCE_FILMS):
        prepared = prepare(_film(small_phantom(3_000 + i)), manifest.input)
        output = engine.run(prepared.tensor)
        decision = decide(output.logits, manifest, point)
        for name in names:
            statistics[name].append(getattr(prepared.statistics, name))
        if decision.confidence is not None:
            confidences.append(decision.confidence)
        labels.append(decision.positive if manifest.task == "multilabel" else decision.label)
        features.append(pooled(output.features))
    values: dict[str, NDArray[np.float64]] = {name: np.array(column) for name, column in statistics.items()}
    if confidences:
        values["confidence"] = np.array(confidences)
    return reference_arrays(values, labels, manifest.classes, np.stack(features), seed=0)


def _manifest(
    name: str, version: str, task: Task, explanation: Explanation, seed: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Every field of the manifest but `files`, as plain values. given: in place of what stands here."""
    classes = given.get("classes", CLASSES[task])
    made = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "task": task,
        "classes": list(classes),
        "input": {
            "size": SIZE,
            "channels": 1,
            "resize": "stretch",
            "sixteen_bit": "significant_bits",
            "normalisation": {"kind": "per_image", "std_floor": 8.0},
        },
        "network": {
            "architecture": "tiny-3-conv",
            "logits": 1 if task == "binary" else len(classes),
            "features": [CHANNELS, GRID, GRID],
            "explanation": explanation,
        },
        "calibration": _calibration(task),
        "calibration_chosen_by": "set by hand, for tests",
        **_operating_points(task),
        "review": {"low_confidence_below": 0.7, "borderline_margin": 0.2},
        "quality": {
            "under_exposed_mean_below": 30.0,
            "over_exposed_mean_above": 225.0,
            "low_contrast_std_below": 12.0,
        },
        "intended_use": {
            "population": "generated phantoms",
            "age_years": None,
            "views": ["PA", "AP"],
            "purpose": "tests of the service",
            "limits": "judges nothing",
        },
        "gate": None,
        "metrics": [{"name": "auroc", "data": DATA, "value": 0.5, "ci": [0.3, 0.7], "n": REFERENCE_FILMS}],
        "provenance": {
            "git_commit": "0" * 40,
            "recipe": "tests/support/tiny_bundle.py",
            "recipe_digest": "0" * 64,
            "seed": seed,
            "data": [
                {"name": DATA, "images": 0, "digest": "0" * 64, "licence": "Apache-2.0", "attribution": "this project"}
            ],
            "libraries": {"onnx": onnx.__version__},
            "hardware": "any",
            "duration_s": 0.0,
            "created_at": "2026-01-01T00:00:00Z",
        },
        "licence": {"weights": "Apache-2.0", "commercial_use": True},
        "tolerances": {"fp32": 1e-3},
    }
    return {**made, **given}


def _calibration(task: Task) -> dict[str, Any]:
    if task == "binary":
        return {"method": "platt", "slope": [0.9], "intercept": [0.1]}
    if task == "multiclass":
        return {"method": "temperature", "temperature": 1.5}
    curve = {"margins": [-6.0, 0.0, 6.0], "probabilities": [0.01, 0.4, 0.98]}
    return {"method": "isotonic", "curves": [curve] * 3}


def _operating_points(task: Task) -> dict[str, Any]:
    estimate = {"value": 0.5, "ci": [0.3, 0.7]}
    measured = {"sensitivity": estimate, "specificity": estimate, "data": DATA, "n": REFERENCE_FILMS}
    if task == "binary":
        points = [
            {"name": "screening", "rule": "threshold", "target": "by hand", "thresholds": {"pneumonia": -0.4}},
            {"name": "rule-in", "rule": "threshold", "target": "by hand", "thresholds": {"pneumonia": 1.2}},
        ]
        points = [{**point, "measured": {"pneumonia": measured}} for point in points]
        return {"operating_points": points, "default_operating_point": "screening"}
    if task == "multiclass":
        points = [
            {"name": "argmax", "rule": "argmax", "target": "most probable class"},
            {
                "name": "safety-first",
                "rule": "hierarchical",
                "target": "by hand",
                "thresholds": {"tuberculosis": -1.5, "pneumonia": -0.7},
                "priority": ["tuberculosis", "pneumonia"],
                "fallback": "normal",
                "measured": {"tuberculosis": measured, "pneumonia": measured},
            },
        ]
        return {"operating_points": points, "default_operating_point": "safety-first"}
    thresholds = dict.fromkeys(CLASSES["multilabel"], 0.3)
    points = [{"name": "balanced", "rule": "per_label", "target": "by hand", "thresholds": thresholds}]
    return {"operating_points": points, "default_operating_point": "balanced"}
