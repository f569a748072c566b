"""The int8 network of a tiny one: what the service accepts, what it computes, and which bits it uses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from app.bundle.folder import NETWORK_INT8
from app.bundle.onnx_schema import QUANTISING
from app.bundle.onnx_walk import inspect_network
from app.domain import Radiograph
from app.errors import ConfigurationError
from app.explain import Head, pooled
from app.inference.engine import OnnxRuntimeEngine
from app.preprocessing import prepare
from tests.support.tiny_bundle import TinyParts, small_phantom, tiny_parts
from training.publishing.quantise import quantise

Film = NDArray[np.float32]


def _tensors(first: int, count: int) -> list[Film]:
    from app.bundle.input_spec import InputSpec

    spec = InputSpec.model_validate(tiny_parts().manifest["input"])
    films = (Radiograph(small_phantom(first + i), "0" * 64, "png") for i in range(count))
    return [prepare(film, spec).tensor for film in films]


@pytest.fixture(scope="module")
def parts() -> TinyParts:
    return tiny_parts()


@pytest.fixture(scope="module")
def int8(parts: TinyParts) -> bytes:
    return quantise(parts.network, _tensors(3_000, 12))


def _initialisers(data: bytes) -> dict[str, NDArray[np.generic]]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(data).graph.initializer}


def test_the_service_accepts_it_and_it_is_quantised(parts: TinyParts, int8: bytes) -> None:
    before, after = inspect_network(parts.network), inspect_network(int8, file=NETWORK_INT8)
    assert after.operators.keys() >= QUANTISING
    assert (after.inputs, after.outputs, after.opset) == (before.inputs, before.outputs, before.opset)
    assert after.operators["Conv"] == before.operators["Conv"]


def test_its_features_are_a_few_steps_from_those_of_the_reference(parts: TinyParts, int8: bytes) -> None:
    step = float(_initialisers(int8)["features_scale"])
    reference, quantised = OnnxRuntimeEngine(parts.network), OnnxRuntimeEngine(int8, precision="int8")
    for film in _tensors(4_000, 8):
        shift = np.abs(reference.run(film).features - quantised.run(film).features)
        assert shift.mean() < step
        assert 0 < shift.max() < 6 * step


def test_its_logits_follow_from_its_features_through_the_head(parts: TinyParts, int8: bytes) -> None:
    head = Head.from_tensors("gap_linear", parts.head)
    for film in _tensors(4_000, 4):
        output = OnnxRuntimeEngine(int8, precision="int8").run(film)
        assert head.logits(pooled(output.features)) == pytest.approx(output.logits, abs=1e-4)


def test_weights_have_seven_bits_and_a_scale_per_channel(int8: bytes) -> None:
    """Two products of 8 x 7 bits fit in the 16 bits in which a CPU without VNNI adds them: 2 * 255 * 64 <= 32767."""
    tensors = _initialisers(int8)
    kernels = {name: v for name, v in tensors.items() if v.dtype == np.int8 and v.ndim == 4}
    assert len(kernels) == 3
    for name, values in kernels.items():
        assert 32 < np.abs(values.astype(int)).max() <= 64
        scale = tensors[name.removesuffix("_quantized") + "_scale"]
        assert scale.shape == (len(values),)
        assert len(np.unique(scale)) > 1


def test_activations_are_unsigned(int8: bytes) -> None:
    zeros = [v for name, v in _initialisers(int8).items() if name.endswith("_zero_point") and v.ndim == 0]
    assert zeros
    assert {v.dtype for v in zeros} == {np.dtype(np.uint8)}


def test_ranges_are_those_of_the_films(parts: TinyParts) -> None:
    films = _tensors(3_000, 4)
    lowest, highest = min(f.min() for f in films), max(f.max() for f in films)
    scale = _initialisers(quantise(parts.network, films))["image_scale"]
    assert float(scale) == pytest.approx(float(highest - lowest) / 255, rel=1e-5)


def test_the_same_films_give_the_same_bytes(parts: TinyParts, int8: bytes) -> None:
    assert quantise(parts.network, iter(_tensors(3_000, 12))) == int8
    assert quantise(parts.network, _tensors(3_100, 12)) != int8


def test_without_films_there_is_no_range(parts: TinyParts) -> None:
    with pytest.raises(ConfigurationError, match="no_films"):
        quantise(parts.network, [])
