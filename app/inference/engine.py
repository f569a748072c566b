"""Engines run a network on prepared films. Safe to call from several threads at once; they share one copy of the weights."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from app.domain import EngineInfo, NetworkOutput
from app.errors import BundleError, InternalError
from app.inference.memory import return_freed_memory
from app.inference.runtime import onnxruntime

Device = Literal["cpu", "cuda"]

_PROVIDERS: Final[Mapping[Device, list[Any]]] = MappingProxyType(
    {
        "cpu": ["CPUExecutionProvider"],
        # kernels chosen by rule and not by trial: the same film gives the same logits after every start
        "cuda": [
            ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
            "CPUExecutionProvider",
        ],
    }
)
_SILENT = 4  # fatal only: the runtime writes to stderr by itself, past our log; what it raises is reported by us


class Engine(Protocol):
    """Runs a network."""

    @property
    def info(self) -> EngineInfo:
        """What does the arithmetic."""

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        """Logits and features of one film; tensor float32 [C, S, S]."""

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        """As `run`, for N films in one call, in order; tensors float32 [N, C, S, S], N >= 1."""


class OnnxRuntimeEngine:
    """ONNX Runtime, on the CPU or, where its build has CUDA (package `onnxruntime-gpu`) and a GPU is there, on that.

    One session for all callers: `run` may be called from many threads, each call uses `threads` of its own, and nothing spins
    while idle. No custom operators can be registered, and tensors outside the file would be looked for in a folder that was
    empty and is gone.

    Args:
        network: ONNX bytes that `app.bundle.onnx_walk` accepted.
        threads: threads within one call.
        precision: that of the network file; the runtime computes as the file says (`int8`: between its QuantizeLinear and
            DequantizeLinear nodes) and never chooses another by itself; TF32, which CUDA would use unasked, is off.
        device: what computes.

    Raises:
        BundleError: `malformed_network` if the runtime does not take the network; `wrong_inputs_outputs`; `engine_unavailable` if
            there is no CUDA here, or it does not start.
    """

    def __init__(
        self,
        network: bytes,
        *,
        threads: int = 1,
        precision: Literal["fp32", "int8"] = "fp32",
        device: Device = "cpu",
    ) -> None:
        self._session = _session(network, threads, device)
        return_freed_memory()
        name = "onnxruntime" if device == "cpu" else f"onnxruntime-{device}"
        self._info = EngineInfo(name, onnxruntime.__version__, precision, threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise BundleError("wrong_inputs_outputs", "the network must have one float32 input of four axes")
        self._input = inputs[0].name
        self._one_at_a_time, self._input_shape = input_axes(inputs[0].shape)
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
        return self._infer(checked_batch(tensor[None], self._input_shape))[0]

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        """As `run`, for N films in one call; one after the other where the file fixes its batch axis at one.

        Args:
            tensors: float32 [N, C, S, S], N >= 1.

        Raises:
            InternalError: as `run`, if any film fails.
        """
        batch = checked_batch(tensors, self._input_shape)
        if self._one_at_a_time:
            return [self._infer(batch[i : i + 1])[0] for i in range(len(batch))]
        return self._infer(batch)

    def _infer(self, batch: NDArray[np.float32]) -> list[NetworkOutput]:
        try:
            logits, features = self._session.run(["logits", "features"], {self._input: batch})
        except Exception as error:  # the runtime's own exceptions share no base class
            raise InternalError from error
        return films(logits, features, len(batch))


def input_axes(shape: Sequence[int | str | None]) -> tuple[bool, tuple[int, int, int]]:
    """Whether a network takes one film at a time only, and the shape (C, S, S) of a film, from its input's shape.

    Raises:
        BundleError: `wrong_inputs_outputs` for another number of axes, or a film's size that is open.
    """
    if len(shape) != 4:
        raise BundleError("wrong_inputs_outputs", "the network must have one float32 input of four axes")
    sizes = [size for size in shape[1:] if isinstance(size, int) and size > 0]
    if len(sizes) != 3:
        raise BundleError("wrong_inputs_outputs", f"the network leaves its input size open: {tuple(shape[1:])}")
    return shape[0] == 1, (sizes[0], sizes[1], sizes[2])


def checked_batch(tensors: NDArray[np.float32], film: tuple[int, int, int]) -> NDArray[np.float32]:
    """The films float32 [N, C, S, S] in one piece of memory; not copied where they are already.

    Raises:
        InternalError: another shape or type, or no film.
    """
    if tensors.ndim != 4 or tensors.shape[1:] != film or len(tensors) == 0 or tensors.dtype != np.float32:
        raise InternalError from ValueError(
            f"the network takes float32 {film} for a film, got {tensors.dtype} {tensors.shape}"
        )
    return np.ascontiguousarray(tensors)


def films(logits: NDArray[np.float32], features: NDArray[np.float32], n: int) -> list[NetworkOutput]:
    """The outputs of n films, from logits float32 [n, K] and features float32 [n, C, h, w]; views, not copies.

    Raises:
        InternalError: other shapes, or a value that is not finite.
    """
    if logits.ndim != 2 or features.ndim != 4 or not len(logits) == len(features) == n:
        raise InternalError from ValueError(f"logits {logits.shape} and features {features.shape} for {n} films")
    if not (np.isfinite(logits).all() and np.isfinite(features).all()):
        raise InternalError from ValueError("the network gave values that are not finite")
    return [NetworkOutput(logits=logits[i], features=features[i]) for i in range(n)]


def cuda_built_in() -> bool:
    """Whether this build of ONNX Runtime has CUDA; whether a GPU is there shows when a session is opened."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _session(network: bytes, threads: int, device: Device) -> onnxruntime.InferenceSession:
    wanted = _PROVIDERS[device]
    if device == "cuda" and not cuda_built_in():
        raise BundleError(
            "engine_unavailable", "this build of ONNX Runtime has no CUDA; install onnxruntime-gpu in its place"
        )
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
            session = onnxruntime.InferenceSession(network, options, providers=wanted, enable_fallback=0)
        except Exception as error:  # the runtime's own exceptions share no base class
            raise BundleError(
                "malformed_network"
                if device == "cpu"
                else "engine_unavailable",  # a GPU may be out of memory or libraries
                f"ONNX Runtime {onnxruntime.__version__} refuses the network: {error}",
            ) from error
    providers = session.get_providers()
    if (
        device == "cuda" and providers[0] != "CUDAExecutionProvider"
    ):  # without a GPU or its libraries the CPU takes over in silence
        raise BundleError("engine_unavailable", "ONNX Runtime finds no GPU that it can use, or not the CUDA it needs")
    if device == "cpu" and providers != ["CPUExecutionProvider"]:
        raise BundleError("malformed_network", f"the runtime chose {providers} instead of the CPU")
    return session
