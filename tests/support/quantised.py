"""A tiny network in int8, made as the shipped ones are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from training.publishing.quantise import quantise


def quantised(network: bytes, films: Sequence[NDArray[np.float32]]) -> bytes:
    """Static int8 of a network, its ranges from these films, float32 [C, S, S] each."""
    model = onnx.load_from_string(network)
    for i, node in enumerate(model.graph.node):  # the quantiser tells nodes apart by name, as the exporter names them
        node.name = f"node{i}"
    return quantise(model.SerializeToString(), films)
