"""The two ways in which the other servers run DenseNet-121: eager PyTorch, and ONNX Runtime with this service's file and options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Network(Protocol):
    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, 1] of tensors [N, 3, S, S]."""


def load(kind: str, folder: Path, threads: int) -> Network:
    """kind: `eager` or `onnx`; folder: with weights.pt and network.onnx; threads: within one call."""
    return _eager(folder, threads) if kind == "eager" else _onnx(folder, threads)


def _onnx(folder: Path, threads: int) -> Network:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # noqa: PLC0415 - only the one that is asked for

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(folder / "network.onnx"), options, providers=["CPUExecutionProvider"])
    # the features are what this service explains with; nobody asks the others for them
    return lambda batch: np.asarray(session.run(["logits"], {"image": batch})[0])


def _eager(folder: Path, threads: int) -> Network:
    import torch  # noqa: PLC0415 - only the one that is asked for

    torch.set_num_threads(threads)
    network: Any = _torchvision().models.densenet121(weights=None, num_classes=1)
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    network.eval()

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(batch)).numpy())

    return run


def _torchvision() -> Any:
    """torchvision beside a CPU build of torch: its detection operators are declared first, as nobody built them."""
    import torch  # noqa: PLC0415 - only the one that is asked for

    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's stub
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]  # as above
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]  # as above
        _KEPT.append(library)
    import torchvision  # noqa: PLC0415 - only the one that is asked for

    return torchvision


_KEPT: list[Any] = []  # torch takes the declarations back when the library is collected
