"""What the tensor files of a bundle must hold, given its manifest: names, element types, shapes and plain sense of the values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.folder import GATE, GATE_NETWORK, GOLDEN, HEAD, NETWORK, NETWORK_INT8, REFERENCE
from app.bundle.gate_spec import PictureGate
from app.bundle.manifest import Manifest
from app.bundle.onnx_schema import QUANTISING
from app.bundle.onnx_walk import NetworkSummary
from app.bundle.tensors import Arrays, ArraySpec, npz_names, read_npz, read_safetensors
from app.domain import STATISTICS
from app.errors import BundleError

PROJECTION = 16  # rows of the fixed projection of the pooled features
MAX_GOLDENS = 32
MAX_HEAD_LAYERS = 8
MAX_BINS = 64

_REFERENCE_MAX_BYTES = 16 << 20
_GOLDEN_MAX_BYTES = 128 << 20
_PHANTOM_PX = range(32, 4_097)
_DECISION_MAX_CHARS = 16_384


def check_network(summary: NetworkSummary, manifest: Manifest, *, file: str = NETWORK) -> None:
    """The network's declared shapes are those of the manifest; an axis that the file leaves open is checked when it runs. It is quantised
    exactly where `file` is network-int8.onnx.

    Raises:
        BundleError: `wrong_inputs_outputs`; `forbidden_operator` (a reference that rounds), `not_quantised`.
    """
    _check_quantised(summary, file, wanted=file == NETWORK_INT8)
    spec, size = manifest.network, manifest.input.size
    image = (manifest.input.channels, size, size)
    _check_shapes(summary, {"image": image, "logits": (spec.logits,), "features": spec.features}, file)


def check_gate_network(summary: NetworkSummary, picture: PictureGate) -> None:
    """As `check_network`, for gate.onnx: one channel, one logit per pose.

    Raises:
        BundleError: `wrong_inputs_outputs`.
    """
    _check_quantised(summary, GATE_NETWORK, wanted=False)
    image = (1, picture.input.size, picture.input.size)
    wanted = {"image": image, "logits": (len(picture.poses),), "features": picture.features}
    _check_shapes(summary, wanted, GATE_NETWORK)


def read_head(data: bytes | None, manifest: Manifest) -> Mapping[str, NDArray[np.float32]]:
    """The tensors of head.safetensors, float32; empty where nothing can be explained.

    Raises:
        BundleError: `malformed_tensors`; `head_mismatch` where names or shapes do not lead from C channels to K logits.
    """
    if data is None:
        return MappingProxyType({})
    tensors = read_safetensors(data, file=HEAD)
    linear = manifest.network.explanation == "gap_linear"
    layers = 1 if linear else len(tensors) // 2
    names = [("weight", "bias")] if linear else [(f"{i}.weight", f"{i}.bias") for i in range(layers)]
    if set(tensors) != {name for pair in names for name in pair} or not 1 <= layers <= MAX_HEAD_LAYERS:
        raise BundleError("head_mismatch", f"a {manifest.network.explanation} head cannot have {sorted(tensors)[:8]}")
    width = manifest.network.features[0]
    for weight, bias in names:
        have = tensors[weight].shape, tensors[bias].shape
        if len(have[0]) != 2 or have[0][1] != width or have[1] != have[0][:1] or have[0][0] < 1:
            raise BundleError("head_mismatch", f"{weight} has the shape {list(have[0])} with bias {list(have[1])}; "
                              f"wanted [n, {width}] and [n]")  # fmt: skip
        width = have[0][0]
    if width != manifest.network.logits:
        raise BundleError(
            "head_mismatch", f"the head gives {width} logits, the manifest says {manifest.network.logits}"
        )
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise BundleError("head_mismatch", "the head holds values that are not finite")
    return tensors


def read_gate(data: bytes, manifest: Manifest, picture: PictureGate) -> Mapping[str, NDArray[np.float32]]:
    """The tensors of gate.safetensors, float32, for P poses, C channels of the gate's features and C2 of the classifier's:
    `pose_means` [P, C], `pose_whitening` [D, C], `network_mean` [C2], `network_whitening` [D2, C2]; D <= C, D2 <= C2.

    Raises:
        BundleError: `malformed_tensors`; `gate_mismatch` where names, shapes or values do not belong to that gate.
    """
    tensors = read_safetensors(data, file=GATE)
    channels, seen = picture.features[0], manifest.network.features[0]
    any_shape: dict[str, list[tuple[int, ...]]] = {
        "pose_means": [(len(picture.poses), channels)],
        "pose_whitening": [(rows, channels) for rows in range(1, channels + 1)],
        "network_mean": [(seen,)],
        "network_whitening": [(rows, seen) for rows in range(1, seen + 1)],
    }
    if set(tensors) != set(any_shape):
        raise BundleError("gate_mismatch", f"{GATE} cannot have {sorted(tensors)[:8]}, wanted {sorted(any_shape)}")
    for name, shapes in any_shape.items():
        have = tensors[name].shape
        if have not in shapes:
            raise BundleError("gate_mismatch", f"{GATE}: {name} has the shape {list(have)}, wanted {list(shapes[-1])}")
        if not np.isfinite(tensors[name]).all():
            raise BundleError("gate_mismatch", f"{GATE}: {name} holds values that are not finite")
    return tensors


def read_reference(data: bytes, manifest: Manifest) -> Arrays:
    """The arrays of reference.npz (drift baseline).

    Edges do not decrease; shares are in [0, 1] and those of a histogram (and of classes, but for multilabel) sum to one. The
    arrays of `confidence` are NaN throughout in a multilabel bundle, whose answers have none.

    Raises:
        BundleError: `malformed_tensors`.
    """
    specs = {
        "class_proportions": ArraySpec(("float64",), (len(manifest.classes),)),
        "projection": ArraySpec(("float32",), (PROJECTION, manifest.network.features[0])),
        "projected_mean": ArraySpec(("float64",), (PROJECTION,)),
        "projected_cov": ArraySpec(("float64",), (PROJECTION, PROJECTION)),
        "n": ArraySpec(("int64",), ()),
    }
    without = {"confidence"} if manifest.task == "multilabel" else set()
    for statistic in STATISTICS:
        for part in ("edges", "proportions"):
            specs[f"{part}_{statistic}"] = ArraySpec(("float64",), (None,), finite=statistic not in without)
    arrays = read_npz(data, specs, file=REFERENCE, max_bytes=_REFERENCE_MAX_BYTES)
    for statistic in STATISTICS:
        edges, proportions = arrays[f"edges_{statistic}"], arrays[f"proportions_{statistic}"]
        if not (np.isnan(edges).all() and np.isnan(proportions).all()):
            _check_histogram(statistic, edges, proportions)
    _check_shares("class_proportions", arrays["class_proportions"], one=manifest.task != "multilabel")
    covariance = arrays["projected_cov"]
    if int(arrays["n"]) < 1 or not np.allclose(covariance, covariance.T) or (np.diagonal(covariance) < 0).any():
        raise BundleError("malformed_tensors", f"{REFERENCE}: n below 1, or projected_cov is no covariance")
    return arrays


def read_golden(data: bytes, manifest: Manifest) -> Arrays:
    """The arrays of golden.npz: for each case i phantom_i, resized_sha256_i, tensor_i, logits_i, decisions_i; with a gate that
    looks at pictures also gate_logits_i [P] and gate_pooled_i [C], what its network gives for the phantom.

    Raises:
        BundleError: `malformed_tensors`.
    """
    size, channels = manifest.input.size, manifest.input.channels
    cases = sum(name.startswith("phantom_") for name in npz_names(data, file=GOLDEN))
    if not 1 <= cases <= MAX_GOLDENS:
        raise BundleError("malformed_tensors", f"{GOLDEN} has {cases} cases, wanted 1 to {MAX_GOLDENS}")
    per_case = {
        "phantom": ArraySpec(("uint8", "uint16"), (None, None)),
        "resized_sha256": ArraySpec(("str",), (), max_chars=64),
        "tensor": ArraySpec(("float32",), (channels, size, size)),
        "logits": ArraySpec(("float32",), (manifest.network.logits,)),
        "decisions": ArraySpec(("str",), (), max_chars=_DECISION_MAX_CHARS),
    }
    picture = manifest.picture_gate
    if picture is not None:
        per_case["gate_logits"] = ArraySpec(("float32",), (len(picture.poses),))
        per_case["gate_pooled"] = ArraySpec(("float64",), (picture.features[0],))
    specs = {f"{name}_{i}": spec for i in range(cases) for name, spec in per_case.items()}
    arrays = read_npz(data, specs, file=GOLDEN, max_bytes=_GOLDEN_MAX_BYTES)
    for i in range(cases):
        shape = arrays[f"phantom_{i}"].shape
        if any(side not in _PHANTOM_PX for side in shape):
            raise BundleError("malformed_tensors", f"{GOLDEN}: phantom_{i} is {shape[0]} x {shape[1]} px")
    return arrays


def _check_quantised(summary: NetworkSummary, file: str, *, wanted: bool) -> None:
    used = sorted(QUANTISING & summary.operators.keys())
    if used and not wanted:
        raise BundleError("forbidden_operator", f"{file} uses the operator {used[0]!r}; only {NETWORK_INT8} may round")
    if wanted and len(used) < len(QUANTISING):
        raise BundleError("not_quantised", f"{file} has of {sorted(QUANTISING)} only {used}: it is no network in int8")


def _check_shapes(summary: NetworkSummary, wanted: Mapping[str, tuple[int, ...]], file: str) -> None:
    for tensor in (*summary.inputs, *summary.outputs):
        pairs = zip(tensor.shape[1:], wanted[tensor.name], strict=True)
        if any(have not in (None, want) for have, want in pairs):
            raise BundleError(
                "wrong_inputs_outputs",
                f"{file}: {tensor.name!r} has the shape {list(tensor.shape)}, the manifest says {list(wanted[tensor.name])}",
            )


def _check_histogram(statistic: str, edges: NDArray[Any], proportions: NDArray[Any]) -> None:
    if len(proportions) != len(edges) + 1 or len(proportions) > MAX_BINS:
        raise BundleError("malformed_tensors", f"{REFERENCE}: {statistic} has {len(edges)} edges and {len(proportions)} "
                          f"bins; wanted one more bin than edges, at most {MAX_BINS}")  # fmt: skip
    if not (np.diff(edges) >= 0).all():
        raise BundleError("malformed_tensors", f"{REFERENCE}: edges_{statistic} decrease")
    _check_shares(f"proportions_{statistic}", proportions, one=True)


def _check_shares(name: str, shares: NDArray[Any], *, one: bool) -> None:
    if not ((shares >= 0) & (shares <= 1)).all() or (one and abs(float(shares.sum()) - 1.0) > 1e-6):
        raise BundleError("malformed_tensors", f"{REFERENCE}: {name} are not shares that sum to one")
