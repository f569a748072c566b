"""Engines run a network on one prepared film. Safe to call from several threads at once; they share one copy of the weights."""

from __future__ import annotations

import tempfile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.domain import EngineInfo, NetworkOutput
from app.errors import BundleError, InternalError
from app.inference.memory import return_freed_memory
from app.inference.runtime import onnxruntime

_SILENT = 4  # fatal only: the runtime writes to stderr by itself, past our log; what it raises is reported by us


class Engine(Protocol):
    """Runs a network."""

    @property
    def info(self) -> EngineInfo:
        """What does the arithmetic."""

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        """Logits and features of one film; tensor float32 [C, S, S]."""


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU, fp32.

    One session for all callers: `run` may be called from many threads, each call uses `threads` of its own, and nothing spins
    while idle. No custom operators can be registered, and tensors outside the file would be looked for in a folder that was
    empty and is gone.

    Args:
        network: ONNX bytes that `app.bundle.onnx_walk` accepted.
        threads: threads within one call.

    Raises:
        BundleError: `malformed_network` if the runtime does not take the network; `wrong_inputs_outputs`.
    """

    def __init__(self, network: bytes, *, threads: int = 1) -> None:
        self._session = _session(network, threads)
        return_freed_memory()
        self._info = EngineInfo("onnxruntime", onnxruntime.__version__, "fp32", threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            raise BundleError("wrong_inputs_outputs", "the network must have one float32 input of four axes")
        self._input = inputs[0].name
        self._input_shape = tuple(inputs[0].shape[1:])
        if not all(isinstance(size, int) for size in self._input_shape):
            raise BundleError("wrong_inputs_outputs", f"the network leaves its input size open: {self._input_shape}")
        if {output.name for output in self._session.get_outputs()} != {"logits", "features"}:
            raise BundleError("wrong_inputs_outputs", "the network must have the outputs logits and features")

    @property
    def info(self) -> EngineInfo:
        return self._info

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        """Logits float32 [K] and features float32 [C, h, w] of one film.

        Args:
            tensor: float32 [C, S, S], as `app.preprocessing` made it for this bundle.

        Raises:
            InternalError: a tensor of another shape or type, a failure inside the runtime, an output of unexpected shape, or one
                that is not finite; the cause says which. None of it may become an answer.
        """
        if tensor.shape != self._input_shape or tensor.dtype != np.float32:
            raise InternalError from ValueError(
                f"the network takes float32 {self._input_shape}, got {tensor.dtype} {tensor.shape}"
            )
        batch = np.ascontiguousarray(tensor)[None]
        try:
            logits, features = self._session.run(["logits", "features"], {self._input: batch})
        except Exception as error:  # the runtime's own exceptions share no base class
            raise InternalError from error
        if logits.ndim != 2 or features.ndim != 4 or logits.shape[0] != 1 or features.shape[0] != 1:
            raise InternalError from ValueError(f"logits {logits.shape} and features {features.shape} for one film")
        if not (np.isfinite(logits).all() and np.isfinite(features).all()):
            raise InternalError from ValueError("the network gave values that are not finite")
        return NetworkOutput(logits=logits[0], features=features[0])


def _session(network: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory(prefix="cxr-empty-") as empty:
        # loaded from bytes, the runtime would look for tensors outside the file in the working directory
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
        try:
            session = onnxruntime.InferenceSession(
                network, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # the runtime's own exceptions share no base class
            raise BundleError(
                "malformed_network", f"ONNX Runtime {onnxruntime.__version__} refuses the network: {error}"
            ) from error
    if session.get_providers() != ["CPUExecutionProvider"]:
        raise BundleError("malformed_network", f"the runtime chose {session.get_providers()} instead of the CPU")
    return session
