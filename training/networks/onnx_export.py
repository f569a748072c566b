"""From a fitted network to the two files that serving needs: the ONNX network and the head's tensors."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.jit._trace import TracerWarning  # the public name is missing from torch's stubs

from training.networks.network import TriageNetwork

OPSET = 17


def onnx_bytes(network: nn.Module, size: int, channels: int = 1) -> bytes:
    """The network as ONNX: input `image` [B, channels, S, S], outputs `logits` [B, K] and `features` [B, C, h, w], B free.

    The network itself is left as it is. Batch normalisation that follows a convolution is folded into it by the exporter; all
    tensors lie inside the file.
    """
    network = copy.deepcopy(network).eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks it
    target = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter writes tensors to a file beside the network by default and needs more packages.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Swin's window counts and paddings become constants of this size, as they should.
        warnings.filterwarnings("ignore", category=TracerWarning)
        torch.onnx.export(
            network,
            (torch.zeros(1, channels, size, size),),
            target,  # type: ignore[arg-type]  # the stub lacks file objects, which this exporter takes
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits", "features"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}, "features": {0: "batch"}},
            do_constant_folding=True,
        )
    return _with_feature_shape(target.getvalue(), network, size, channels)


def explanation_kind(network: TriageNetwork) -> Literal["gap_linear", "gap_mlp_relu"]:
    """How the service explains the network's answers (`app.explain.Head`)."""
    return "gap_linear" if isinstance(network.head, nn.Linear) else "gap_mlp_relu"


def head_tensors(network: TriageNetwork) -> dict[str, NDArray[np.float32]]:
    """What follows the pooling, as `app.explain.Head` reads it (`dense_tensors`)."""
    return dense_tensors(network.head)


def dense_tensors(head: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A head's tensors, float32.

    One linear layer (`gap_linear`): `weight` [K, C], `bias` [K]. A sequence of them (`gap_mlp_relu`): `0.weight` [H, C], `0.bias` [H],
    `1.weight`, ...
    """
    if isinstance(head, nn.Linear):
        return {"weight": _array(head.weight), "bias": _array(head.bias)}
    tensors = {}
    for i, layer in enumerate(m for m in head.modules() if isinstance(m, nn.Linear)):
        tensors[f"{i}.weight"], tensors[f"{i}.bias"] = _array(layer.weight), _array(layer.bias)
    return tensors


def feature_shape(network: TriageNetwork, size: int, channels: int = 1) -> tuple[int, int, int]:
    """C, h, w of the features for a square input of this size."""
    body = copy.deepcopy(network.body).eval().cpu()
    with torch.inference_mode():
        features = body(torch.zeros(1, channels, size, size))
    _, depth, height, width = features.shape
    return int(depth), int(height), int(width)


def _with_feature_shape(data: bytes, network: nn.Module, size: int, channels: int) -> bytes:
    """The file with the sizes of `features` written out where the exporter left them open (Swin)."""
    model = onnx.load_from_string(data)
    dims = next(out for out in model.graph.output if out.name == "features").type.tensor_type.shape.dim
    if all(dim.HasField("dim_value") for dim in dims[1:]):
        return data
    with torch.inference_mode():
        _, features = network(torch.zeros(1, channels, size, size))
    for dim, length in zip(dims[1:], features.shape[1:], strict=True):
        dim.dim_value = length
    return bytes(model.SerializeToString())


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.array(tensor.detach().cpu().numpy(), dtype=np.float32)
