"""The network in eight bits: static quantisation of the exported graph by ONNX Runtime, its ranges taken from calibration films.

Written as QDQ: every quantised tensor passes QuantizeLinear and DequantizeLinear, and the runtime fuses these with the operators
between them (Jacob et al. 2018, arXiv:1712.05877). Activations are unsigned and asymmetric, one range per tensor, the smallest and
largest value seen; weights are signed and symmetric, one scale per output channel (Krishnamoorthi 2018, arXiv:1806.08342). The graph
is the exporter's own, in which batch normalisation behind a convolution is folded already; where it stands before one (DenseNet) it
stays in float32.

Weights use 7 of their 8 bits: a CPU without VNNI adds two products of 8 x 8 bits in 16 bits, and 2 * 255 * 127 does not fit there
while 2 * 255 * 64 does. So every CPU computes the same integers as the one that the variant was measured on.

What follows `features` (pooling and head) stays in float32: it costs next to nothing, and the logits then still follow from the
features through head.safetensors, which is what explanations stand on.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from app.bundle.folder import NETWORK_INT8
from app.bundle.onnx_walk import INPUT, inspect_network
from app.errors import ConfigurationError
from app.inference.runtime import onnxruntime

# by way of the runtime that has its telemetry switched off
quantization = importlib.import_module(f"{onnxruntime.__name__}.quantization")

Film = NDArray[np.float32]


def quantise(network: bytes, films: Iterable[Film]) -> bytes:
    """The int8 network.

    Args:
        network: ONNX bytes of the float32 network.
        films: calibration films as the network sees them, float32 [C, S, S] each; at least one.

    Raises:
        ConfigurationError: `no_films`.
        BundleError: the result holds something that the service refuses (`app.bundle.onnx_walk`).
    """
    model = onnx.load_from_string(network)
    _name_nodes(model)
    reader = _Reader(films)
    # else the quantiser asks for its own optimiser, which the exporter's graph does not need
    quantization.quant_utils.add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory(prefix="cxr-int8-") as folder:
        target = Path(folder) / NETWORK_INT8
        quantization.quantize_static(
            model,
            target,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_in_float32(model),
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        quantised = onnx.load(target)
    data = _plain(quantised)
    inspect_network(data, file=NETWORK_INT8)
    return data


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]  # onnxruntime has no types
    """Hands the films to the quantiser, one by one."""

    def __init__(self, films: Iterable[Film]) -> None:
        self._films: Iterator[Film] = iter(films)
        self._first: Film | None = next(self._films, None)
        if self._first is None:
            raise ConfigurationError("no_films", "there is no film to calibrate the int8 network on")

    def get_next(self) -> dict[str, Film] | None:
        film, self._first = (self._first, None) if self._first is not None else (next(self._films, None), None)
        return None if film is None else {INPUT: film[None]}


def _in_float32(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that compute the logits from the features, and of every batch normalisation that could not be folded: one
    scale for all its channels would spoil it. The nodes stand in an order in which they can be run."""
    made, names = {"features"}, []
    for node in model.graph.node:
        behind = bool(made & set(node.input))
        if behind:
            made |= set(node.output)
        if behind or node.op_type == "BatchNormalization":
            names.append(node.name)
    return names


def _name_nodes(model: onnx.ModelProto) -> None:
    """A name of its own for each node: the quantiser takes those that share one, or have none, for the same."""
    for i, node in enumerate(model.graph.node):
        node.name = f"{i}:{node.op_type}"


def _plain(model: onnx.ModelProto) -> bytes:
    """The file without notes of the quantiser and without operator domains that no node uses."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:], model.metadata_props[:], model.graph.value_info[:]
    model.opset_import.extend(kept)
    return bytes(model.SerializeToString(deterministic=True))
