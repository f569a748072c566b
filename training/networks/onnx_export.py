"""From a fitted network to the two files that serving needs: the ONNX network and the head's tensors."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.networks.network import TriageNetwork

OPSET = 17


def onnx_bytes(network: nn.Module, size: int) -> bytes:
    """The network as ONNX: input `image` [B, 1, S, S], outputs `logits` [B, K] and `features` [B, C, h, w], B free.

    Batch normalisation is folded into the convolutions by the exporter; all tensors lie inside the file.
    """
    network = network.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks it
    target = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter writes tensors to a file beside the network by default and needs more packages.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, size, size),),
            target,  # type: ignore[arg-type]  # the stub lacks file objects, which this exporter takes
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits", "features"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}, "features": {0: "batch"}},
            do_constant_folding=True,
        )
    return target.getvalue()


def head_tensors(network: TriageNetwork) -> dict[str, NDArray[np.float32]]:
    """`gap_linear`: weight [1, C] and bias [1]."""
    return {
        "weight": network.head.weight.detach().numpy().astype(np.float32),
        "bias": network.head.bias.detach().numpy().astype(np.float32),
    }


def feature_shape(network: TriageNetwork, size: int) -> tuple[int, int, int]:
    """C, h, w of the features for a square input of this size."""
    with torch.inference_mode():
        _, features = network.eval()(torch.zeros(1, 1, size, size))
    _, channels, height, width = features.shape
    return int(channels), int(height), int(width)
