"""The networks of tiny bundles: three convolutions at 64 px with random weights, and a small head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from app.domain import Task

Explanation = Literal["gap_linear", "gap_mlp_relu", "none"]
Weights = dict[str, NDArray[np.float32]]

SIZE = 64
CHANNELS = 16  # of the features, [16, 8, 8]
GRID = 8
OPSET = 17
CLASSES: Mapping[Task, tuple[str, ...]] = MappingProxyType(
    {
        "binary": ("normal", "pneumonia"),
        "multiclass": ("normal", "pneumonia", "tuberculosis"),
        "multilabel": ("atelectasis", "cardiomegaly", "effusion"),
    }
)


def tiny_network(weights: Weights, *, logits: int, batch: int | str = "batch") -> onnx.ModelProto:
    """The ONNX model of some weights; tests damage copies of it."""
    nodes = []
    value = "image"
    for i in range(3):
        nodes.append(
            helper.make_node(
                "Conv",
                [value, f"conv{i}.weight", f"conv{i}.bias"],
                [f"c{i}"],
                kernel_shape=[3, 3],
                strides=[2, 2],
                pads=[1, 1, 1, 1],
            )
        )
        value = "features" if i == 2 else f"r{i}"
        nodes.append(helper.make_node("Relu", [f"c{i}"], [value]))
    nodes.append(helper.make_node("ReduceMean", ["features"], ["gap"], axes=[2, 3], keepdims=0))
    value = "gap"
    layers = sum(key.startswith("head") and key.endswith("weight") for key in weights)
    for i in range(layers):
        last = i == layers - 1
        out = "logits" if last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [value, f"head{i}.weight", f"head{i}.bias"], [out], transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"a{i}"]))
            value = f"a{i}"
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.FLOAT, [batch, weights["conv0.weight"].shape[1], SIZE, SIZE]
            )
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, logits]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, CHANNELS, GRID, GRID]),
        ],
        [numpy_helper.from_array(values, key) for key, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def random_weights(
    task: Task, explanation: Explanation, seed: int, *, channels: int = 1, logits: int | None = None
) -> Weights:
    """He-scaled random weights of the convolutions, and a head of one layer or two. channels: of the input; logits: default by task."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}

    def layer(key: str, shape: Sequence[int]) -> None:
        scale = np.sqrt(2.0 / np.prod(shape[1:]))
        weights[f"{key}.weight"] = (rng.standard_normal(shape) * scale).astype(np.float32)
        weights[f"{key}.bias"] = (rng.standard_normal(shape[0]) * 0.1).astype(np.float32)

    layer("conv0", (8, channels, 3, 3))
    layer("conv1", (16, 8, 3, 3))
    layer("conv2", (CHANNELS, 16, 3, 3))
    widths = [CHANNELS, 12] if explanation == "gap_mlp_relu" else [CHANNELS]
    widths.append(logits or logit_count(task))
    for i in range(len(widths) - 1):
        layer(f"head{i}", (widths[i + 1], widths[i]))
    return weights


def logit_count(task: Task) -> int:
    """How many logits a network for the task has."""
    return 1 if task == "binary" else len(CLASSES[task])
