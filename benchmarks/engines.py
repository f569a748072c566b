"""Engines of a benchmark's bundle, and its variants: measured on phantoms, so that the service may choose among them as always."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import REFERENCE_VARIANT, Manifest, Variant, VariantBounds
from app.bundle.store import VerifiedBundle
from app.errors import BundleError
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.inference.openvino import OpenVinoEngine

# Untrained weights: what a shift of a logit costs in decisions says nothing here, so only the shift itself is bounded tightly.
BOUNDS: Final[Mapping[str, VariantBounds]] = {
    "fp32": VariantBounds(logit=0.001, flips=0.0, auroc_loss=0.05),
    "bf16": VariantBounds(logit=0.05, flips=0.0, auroc_loss=0.1),
    "int8": VariantBounds(logit=0.25, flips=0.0, auroc_loss=0.2),
}
CALIBRATION: Final = 32  # phantoms whose ranges the int8 network takes
UNAVAILABLE: Final = frozenset({"engine_unavailable", "engine_precision"})


def build(bundle: VerifiedBundle, name: str, callers: int = 1) -> Engine:
    """The engine of the reference or of a variant, one thread to a call and as many calls side by side.

    Raises:
        BundleError: this machine cannot run it. KeyError: the bundle has no such variant.
    """
    if name == REFERENCE_VARIANT:
        return OnnxRuntimeEngine(bundle.network)
    variant = bundle.manifest.variant(name)
    if variant is None:
        raise KeyError(name)
    if variant.engine == "openvino":
        precision: Literal["bf16", "fp32"] = "bf16" if variant.precision == "bf16" else "fp32"
        return OpenVinoEngine(bundle.network, precision=precision, callers=callers)
    return OnnxRuntimeEngine(bundle.int8 or b"", precision="int8")


def variants(
    manifest: Manifest, network: bytes, films: Sequence[NDArray[np.float32]], sick: NDArray[np.bool_]
) -> tuple[list[Variant], bytes]:
    """What this machine can run, measured on phantoms, and the int8 network.

    Args:
        films: float32 [C, S, S] as the network sees them; the first CALIBRATION of them calibrate, the others measure.
        sick: bool [n], which of them have an opacity.
    """
    from training.publishing.quantise import quantise  # noqa: PLC0415 - the extra `train`, for this bundle only

    logging.getLogger().setLevel(logging.ERROR)  # the quantiser tells of every layer that it leaves alone
    int8 = quantise(network, films[:CALIBRATION])
    rest, labels = films[CALIBRATION:], sick[CALIBRATION:]
    reference = _logits(OnnxRuntimeEngine(network), rest)
    candidates: Mapping[str, Any] = {
        "onnxruntime-int8": lambda: OnnxRuntimeEngine(int8, precision="int8"),
        "openvino-fp32": lambda: OpenVinoEngine(network, precision="fp32"),
        "openvino-bf16": lambda: OpenVinoEngine(network, precision="bf16"),
    }
    found = []
    for name, make in candidates.items():
        try:
            engine = make()
        except BundleError as error:
            if error.code not in UNAVAILABLE:
                raise
            continue
        found.append(_variant(name, manifest, _logits(engine, rest), reference, labels))
    return found, int8


def _variant(
    name: str, manifest: Manifest, logits: NDArray[np.float64], reference: NDArray[np.float64], sick: NDArray[np.bool_]
) -> Variant:
    engine, precision = name.split("-")
    shift = np.abs(logits - reference)
    bounds = BOUNDS[precision]
    flips = {
        point.name: int(((logits >= limit) != (reference >= limit)).sum())
        for point in manifest.operating_points
        for limit in point.thresholds.values()
    }
    change = auroc(logits, sick) - auroc(reference, sick)
    measured = {
        "data": "generated phantoms",
        "n": len(logits),
        "logit_shift_max": float(shift.max()),
        "logit_shift_mean": float(shift.mean()),
        "flips": flips,
        "auroc_change": {manifest.classes[1]: {"value": change}},
    }
    within = shift.max() <= bounds.logit and max(flips.values()) <= bounds.flips * len(logits)
    return Variant.model_validate(
        {
            "name": name,
            "engine": engine,
            "precision": precision,
            "file": "network-int8.onnx" if precision == "int8" else "network.onnx",
            "tolerance": bounds.logit,
            "bounds": bounds.model_dump(),
            "measured": measured,
            "admitted": bool(within and -change <= bounds.auroc_loss),
        }
    )


def _logits(engine: Engine, films: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.array([float(engine.run(film).logits[0]) for film in films])


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Share of pairs of a positive and a negative that are in order (Mann and Whitney 1947); ties count half."""
    above = scores[positive][:, None] - scores[~positive][None, :]
    return float(((above > 0) + 0.5 * (above == 0)).mean())
