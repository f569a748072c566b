"""The gate of a tiny bundle: random convolutions at 64 px, with a linear head that was fitted to tell how phantoms lie.

It takes phantoms for chest films and refuses most else, as a shipped gate does with films; fitted in closed form (linear
discriminant, shared covariance) on a few dozen phantoms in every pose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from app.bundle.gate_spec import GATE_CODES, Action, GateCode, GateSpec, Pose
from app.bundle.input_spec import InputSpec
from app.bundle.store import GateParts
from app.domain import NetworkOutput, Radiograph
from app.explain import pooled
from app.gate import PictureReference, network_distance, pose_distance
from app.imaging.phantom import phantom
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.preprocessing import prepare
from tests.support.tiny_network import CHANNELS, GRID, SIZE, random_weights, tiny_network

Floats = NDArray[np.float64]

POSES: tuple[Pose, ...] = get_args(Pose)
FILMS = 60
MARGIN = 1.5  # limit of distance over the largest distance of a fitted phantom
NETWORK_MARGIN = 2.0  # the same for the classifier, whose features lie less closely together
INPUT: Mapping[str, Any] = {
    "size": SIZE,
    "channels": 1,
    "resize": "stretch",
    "sixteen_bit": "significant_bits",
    "normalisation": {"kind": "per_image", "std_floor": 8.0},
}
WARNED: tuple[GateCode, ...] = (
    "body_part_unknown",
    "view_unknown",
    "patient_age_unknown",
    "cropped_image",
    "under_exposed",
    "over_exposed",
    "low_contrast",
)


@dataclass(frozen=True)
class TinyGate:
    """spec: plain values of the manifest; parts: what is written beside it."""

    spec: Mapping[str, Any]
    parts: GateParts


def posed(pixels: NDArray[np.uint8], pose: str) -> NDArray[np.uint8]:
    """An upright picture in one of the poses of `PictureGate`."""
    if pose == "cropped":
        height, width = pixels.shape
        return np.ascontiguousarray(pixels[height // 2 :, : width // 2])
    if pose.startswith("inverted"):
        pixels = (255 - pixels.astype(np.int16)).astype(np.uint8)
    turns = {"rotated_90": -1, "rotated_180": 2, "rotated_270": 1}.get(pose.removeprefix("inverted_"), 0)
    return np.ascontiguousarray(np.rot90(pixels, turns))


def tiny_gate(network: bytes, input_spec: InputSpec, actions: Mapping[str, Action]) -> TinyGate:
    """The gate for a classifier's network: header words CR, DX / SC / CHEST / PA, AP; every code refuses, but those of `WARNED`.

    Args:
        actions: what differs from that.
    """
    tensors, gate_network, limits = _fitted(network, input_spec)
    spec = {
        "header": {
            "modalities": ["CR", "DX"],
            "film_modalities": ["SC"],
            "body_parts": ["CHEST"],
            "views": ["PA", "AP"],
        },
        "picture": {
            "input": dict(INPUT),
            "poses": list(POSES),
            "temperature": 1.0,
            "pose_probability_at_least": 0.9,
            "distance_above": limits[0],
            "network_distance_above": limits[1],
            "features": [CHANNELS, GRID, GRID],
            "false_refusal": [
                {"name": "false_refusal", "data": "generated phantoms", "value": 0.0, "ci": [0.0, 0.06], "n": FILMS}
            ],
        },
        "actions": {code: "warn" if code in WARNED else "refuse" for code in GATE_CODES} | dict(actions),
    }
    GateSpec.model_validate(spec)
    return TinyGate(spec, GateParts(gate_network, tensors))


@lru_cache(maxsize=8)
def _fitted(
    network: bytes, input_spec: InputSpec
) -> tuple[Mapping[str, NDArray[np.float32]], bytes, tuple[float, float]]:
    """Tensors of gate.safetensors, gate.onnx, and the two limits of distance."""
    films = [_phantom(4_000 + i) for i in range(FILMS)]
    weights = random_weights("binary", "gap_linear", 7)
    weights["head0.weight"] = np.zeros((len(POSES), CHANNELS), np.float32)
    weights["head0.bias"] = np.zeros(len(POSES), np.float32)
    spec = InputSpec.model_validate(INPUT)
    blind = OnnxRuntimeEngine(tiny_network(weights, logits=len(POSES)).SerializeToString())
    features = np.stack([[_pooled(blind, posed(film, pose), spec) for film in films] for pose in POSES])
    means = features.mean(axis=1)
    covariance = _covariance(features - means[:, None])
    discriminant = np.linalg.solve(covariance, means.T).T
    weights["head0.weight"] = discriminant.astype(np.float32)
    weights["head0.bias"] = (-0.5 * np.sum(discriminant * means, axis=1)).astype(np.float32)
    engine = OnnxRuntimeEngine(network)
    seen = np.stack([_pooled(engine, film, input_spec) for film in films])
    tensors = {
        "pose_means": means,
        "pose_whitening": _whitening(covariance),
        "network_mean": seen.mean(axis=0),
        "network_whitening": _whitening(_covariance(seen - seen.mean(axis=0))),
    }
    tensors32 = {name: values.astype(np.float32) for name, values in tensors.items()}
    reference = PictureReference.from_tensors(tensors32)
    limits = (
        MARGIN * float(pose_distance(features[0], reference).max()),
        NETWORK_MARGIN * float(network_distance(seen, reference).max()),
    )
    return tensors32, tiny_network(weights, logits=len(POSES)).SerializeToString(), limits


def _phantom(seed: int) -> NDArray[np.uint8]:
    """Half of them small, so that no size of picture is taken for the mark of a film."""
    height, width = (144, 128) if seed % 2 else (512, 448)
    return phantom(seed, height=height, width=width, opacity=bool(seed % 3))


def _pooled(engine: Engine, pixels: NDArray[np.uint8], spec: InputSpec) -> Floats:
    film = Radiograph(pixels=pixels, sha256="0" * 64, format="png")
    output: NetworkOutput = engine.run(prepare(film, spec).tensor)
    return pooled(output.features)


def _covariance(differences: Floats) -> Floats:
    flat = differences.reshape(-1, differences.shape[-1])
    covariance = flat.T @ flat / len(flat)
    ridge: Floats = covariance + 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return ridge


def _whitening(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    whitening: Floats = (vectors / np.sqrt(values)).T
    return whitening
