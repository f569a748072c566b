"""OpenVINO on the CPU: the extra `openvino`, imported only where it is asked for, with its telemetry cut off.

The package reports each import to Google Analytics and keeps an id for that in the user's home (`openvino.tools.ovc`). It goes without
where `openvino_telemetry` cannot be imported, so that is what it is told here, just before. Nothing else in the project imports it.

Unasked, OpenVINO computes in bf16 wherever the CPU has it. So the precision is always asked for, and what came of it is read back from
the compiled network: from its property, and from the operators that do the arithmetic.

There is one `Core` in a process and it is never let go: each gives the thread that makes it an alternate signal stack of its own, and
takes it back when it goes. Two that go in the order in which they came leave that thread with freed memory for a signal stack, and the
process dies of the next signal, SIGTERM say (2026.4.1).
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from queue import LifoQueue
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from app.domain import EngineInfo, NetworkOutput
from app.errors import BundleError, InternalError
from app.inference.compile_cache import folder_for
from app.inference.engine import checked_batch, films, input_axes
from app.inference.memory import return_freed_memory

OpenVinoPrecision = Literal["fp32", "bf16", "int8"]

# what is asked for: quantised networks compute in int8 between their Quantize nodes and in fp32 elsewhere, never in bf16
_HINTS: Final = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# runtime precision of an operator -> ours; the first that any operator has is the effective one
_EFFECTIVE: Final = (("i8", "int8"), ("u8", "int8"), ("bf16", "bf16"), ("f16", "fp16"), ("f32", "fp32"))
_FIRST: Final = threading.Lock()
_CORES: Final[list[Any]] = []  # guarded by it
_ARITHMETIC: Final = frozenset({"Convolution", "FullyConnected", "MatMul", "Deconvolution", "RNNSeq", "MHA"})


def openvino() -> ModuleType:
    """The package `openvino`, without its telemetry.

    Raises:
        BundleError: `engine_unavailable` where it is not installed.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        import openvino as package  # noqa: PLC0415 - 0.5 s and 60 MB, and an extra
    except ImportError as error:
        raise BundleError(
            "engine_unavailable", f"OpenVINO cannot be imported ({error}); install the extra 'openvino'"
        ) from error
    module: ModuleType = package
    return module


class OpenVinoEngine:
    """OpenVINO on the CPU.

    `run` may be called from many threads; `callers` calls run side by side, each with `threads` threads, further ones wait. Threads are
    not pinned to cores, since others work on these too.

    Args:
        network: ONNX bytes that `app.bundle.onnx_walk` accepted.
        precision: what the arithmetic must be in; `int8` for a quantised network.
        threads: threads within one call.
        callers: calls that run side by side. OpenVINO makes no more streams than there are cores; for further ones the network is
            compiled a second time.
        most: films that one call of `run_many` may take together; a second copy of the network is compiled for more than one.
        cache_dir: folder of compiled networks, made where missing (`compile_cache`); None compiles anew each time.

    Raises:
        BundleError: `engine_unavailable` (not installed, or it cannot compile the network here), `engine_precision` (this CPU or
            release computes in another precision), `malformed_network`, `wrong_inputs_outputs`.
    """

    def __init__(
        self,
        network: bytes,
        *,
        precision: OpenVinoPrecision,
        threads: int = 1,
        callers: int = 1,
        most: int = 1,
        cache_dir: Path | None = None,
    ) -> None:
        package = openvino()
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": callers,
            "INFERENCE_NUM_THREADS": callers * threads,
            "ENABLE_CPU_PINNING": False,
        }
        if cache_dir is not None:
            options["CACHE_DIR"] = str(folder_for(network, _version(package), cache_dir))
        self._film, self._one, self._many = _compiled(package, network, options, most)
        self._most = 1 if self._many is None else most
        streams = int(self._one.get_property("NUM_STREAMS"))
        further = callers - streams
        spare = None
        if further > 0:
            more = {**options, "NUM_STREAMS": further, "INFERENCE_NUM_THREADS": further * threads}
            spare = _fixed(package, _core(package), network, more, [1, *self._film])
        for compiled in filter(None, (self._one, self._many, spare)):
            effective = effective_precision(compiled)
            if effective != precision:
                raise BundleError(
                    "engine_precision",
                    f"OpenVINO {_version(package)} was asked for {precision} and computes in {effective} on this CPU",
                )
        return_freed_memory()
        self._info = EngineInfo("openvino", _version(package), precision, threads)
        # last in, first out: few callers keep few of them busy, and their memory warm
        self._idle: LifoQueue[Any] = LifoQueue()
        for compiled in (*([spare] * further), *([self._one] * min(callers, streams))):
            self._idle.put(compiled.create_infer_request())
        self._idle_many: LifoQueue[Any] = LifoQueue()
        if self._many is not None:
            self._idle_many.put(self._many.create_infer_request())

    @property
    def info(self) -> EngineInfo:
        return self._info

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        """Logits float32 [K] and features float32 [C, h, w] of one film, float32 [C, S, S].

        Raises:
            InternalError: as `OnnxRuntimeEngine.run`.
        """
        return self._infer(self._idle, checked_batch(tensor[None], self._film))[0]

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        """As `run`, for N films float32 [N, C, S, S], at most `most` in one call.

        Raises:
            InternalError: as `run`, if any film fails.
        """
        batch = checked_batch(tensors, self._film)
        outputs: list[NetworkOutput] = []
        for start in range(0, len(batch), self._most):
            part = batch[start : start + self._most]
            if self._many is None or len(part) == 1:
                outputs += self._infer(self._idle, part)
            else:
                outputs += self._infer(self._idle_many, part)
        return outputs

    def _infer(self, idle: LifoQueue[Any], batch: NDArray[np.float32]) -> list[NetworkOutput]:
        request = idle.get()
        try:
            request.infer({"image": batch}, share_inputs=True)
            # copies: the request's memory is used again by the next film
            logits, features = (np.array(request.get_tensor(name).data) for name in ("logits", "features"))
        except Exception as error:  # RuntimeError and its kin
            raise InternalError from error
        finally:
            idle.put(request)
        return films(logits, features, len(batch))


def effective_precision(compiled: Any) -> str:
    """What a compiled network computes in: the lowest precision of any operator that multiplies matrices.

    It and the property INFERENCE_PRECISION_HINT must agree; `unclear` where they do not, or where nothing multiplies.
    """
    found = set()
    for operator in compiled.get_runtime_model().get_ordered_ops():
        facts = operator.get_rt_info()
        if str(facts["layerType"].value).split("_", maxsplit=1)[0] in _ARITHMETIC:
            found.add(str(facts["runtimePrecision"].value))
    effective = next((ours for theirs, ours in _EFFECTIVE if theirs in found), "unclear")
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return effective if hint == _HINTS.get(effective) else "unclear"


def _compiled(
    package: ModuleType, network: bytes, options: dict[str, Any], most: int
) -> tuple[tuple[int, int, int], Any, Any]:
    """The shape of a film, the network compiled for one, and for 1 to `most` (None where one is all, or all that the file takes).

    A fixed batch axis: with an open one the CPU plugin plans memory and kernels anew for each call.
    """
    core = _core(package)
    try:
        model = core.read_model(network)
    except RuntimeError as error:
        raise BundleError("malformed_network", f"OpenVINO {_version(package)} refuses it: {_line(error)}") from error
    if len(model.inputs) != 1 or {name for output in model.outputs for name in output.names} != {"logits", "features"}:
        raise BundleError("wrong_inputs_outputs", "the network must have one input and the outputs logits and features")
    shape = model.input("image").get_partial_shape()
    axes: list[int | str | None] = [axis.get_length() if axis.is_static else None for axis in shape]
    one_at_a_time, film = input_axes(axes)
    try:
        one = _fixed(package, core, network, options, [1, *film])
        if most == 1 or one_at_a_time:
            return film, one, None
        return film, one, _fixed(package, core, network, options, [package.Dimension(1, most), *film])
    except RuntimeError as error:
        raise BundleError(
            "engine_unavailable", f"OpenVINO {_version(package)} cannot compile the network on this CPU: {_line(error)}"
        ) from error


def _core(package: ModuleType) -> Any:
    """The one of this process. Its first tensor is made here as well, by one thread: two at one time can wait for each other for ever
    (2026.4.1, first use of numpy in the binding)."""
    with _FIRST:
        if _CORES:
            return _CORES[0]
        package.Tensor(np.zeros(1, np.float32), shared_memory=True)
        _CORES.append(package.Core())
        return _CORES[0]


def _fixed(package: ModuleType, core: Any, network: bytes, options: dict[str, Any], shape: list[Any]) -> Any:
    model = core.read_model(network)
    model.reshape({"image": package.PartialShape(shape)})
    return core.compile_model(model, "CPU", options)


def _line(error: RuntimeError) -> str:
    """Its messages are several lines of source places; the last one says something."""
    return str(error).strip().splitlines()[-1][:200]


def _version(package: ModuleType) -> str:
    """`2026.4.1`, without the build number."""
    return str(package.__version__).split("-", maxsplit=1)[0]
