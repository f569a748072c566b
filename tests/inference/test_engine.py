from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from app.bundle.onnx_walk import inspect_network
from app.domain import EngineInfo
from app.errors import BundleError, InternalError
from app.inference.engine import OnnxRuntimeEngine
from app.inference.runtime import onnxruntime
from tests.support.quantised import quantised
from tests.support.tiny_network import SIZE, random_weights, tiny_network


def network(seed: int = 0) -> onnx.ModelProto:
    return tiny_network(random_weights("multiclass", "gap_linear", seed), logits=3)


def film(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def engine() -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(network().SerializeToString())


def test_the_engine_says_what_it_is(engine: OnnxRuntimeEngine) -> None:
    assert engine.info == EngineInfo("onnxruntime", onnxruntime.__version__, "fp32", 1)


def test_logits_and_features_of_one_film(engine: OnnxRuntimeEngine) -> None:
    output = engine.run(film(0))
    assert (output.logits.shape, output.logits.dtype.name) == ((3,), "float32")
    assert (output.features.shape, output.features.dtype.name) == ((16, 8, 8), "float32")
    weights = random_weights("multiclass", "gap_linear", 0)
    wanted = weights["head0.weight"] @ output.features.mean(axis=(1, 2)) + weights["head0.bias"]
    np.testing.assert_allclose(output.logits, wanted, atol=1e-5)


def test_many_threads_share_one_engine(engine: OnnxRuntimeEngine) -> None:
    films = [film(seed) for seed in range(40)]
    alone = [engine.run(values).logits for values in films]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda values: engine.run(values).logits, films))
    np.testing.assert_array_equal(together, alone)


def test_many_films_are_the_same_films_one_by_one(engine: OnnxRuntimeEngine) -> None:
    films = np.stack([film(seed) for seed in range(9)])
    outputs = engine.run_many(films)
    assert len(outputs) == 9
    for values, output in zip(films, outputs, strict=True):
        alone = engine.run(values)
        np.testing.assert_allclose(output.logits, alone.logits, atol=1e-5)
        np.testing.assert_allclose(output.features, alone.features, atol=1e-5)


def test_many_films_in_int8_are_the_same_films_one_by_one() -> None:
    films = [film(seed) for seed in range(9)]
    engine = OnnxRuntimeEngine(quantised(network().SerializeToString(), films[:4]), precision="int8")
    for values, output in zip(films, engine.run_many(np.stack(films)), strict=True):
        alone = engine.run(values)
        np.testing.assert_allclose(output.logits, alone.logits, atol=1e-4)
        np.testing.assert_allclose(output.features, alone.features, atol=1e-4)


def test_a_network_with_a_fixed_batch_takes_films_one_by_one() -> None:
    model = network()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    fixed = OnnxRuntimeEngine(model.SerializeToString())
    films = np.stack([film(seed) for seed in range(3)])
    together = [output.logits for output in fixed.run_many(films)]
    np.testing.assert_array_equal(together, [fixed.run(values).logits for values in films])


def test_no_film_and_one_bad_film_are_faults(engine: OnnxRuntimeEngine) -> None:
    with pytest.raises(InternalError):
        engine.run_many(np.zeros((0, 1, SIZE, SIZE), np.float32))
    films = np.stack([film(0), np.full((1, SIZE, SIZE), np.nan, np.float32)])
    with pytest.raises(InternalError):
        engine.run_many(films)


def test_a_view_is_taken_as_its_values(engine: OnnxRuntimeEngine) -> None:
    turned = film(3)[:, ::-1, ::-1]
    np.testing.assert_array_equal(engine.run(turned).logits, engine.run(turned.copy()).logits)


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros((1, 32, 32), np.float32),
        np.zeros((3, SIZE, SIZE), np.float32),
        np.zeros((1, 1, SIZE, SIZE), np.float32),
        np.zeros((1, SIZE, SIZE), np.float64),
    ],
)
def test_a_tensor_of_another_kind_is_a_fault_of_ours(engine: OnnxRuntimeEngine, tensor: NDArray[np.float32]) -> None:
    with pytest.raises(InternalError) as fault:
        engine.run(tensor)
    assert "the network takes float32 (1, 64, 64)" in str(fault.value.__cause__)


def test_what_is_not_finite_is_no_output(engine: OnnxRuntimeEngine) -> None:
    with pytest.raises(InternalError) as fault:
        engine.run(np.full((1, SIZE, SIZE), np.inf, np.float32))
    assert "not finite" in str(fault.value.__cause__)


def test_a_network_the_runtime_refuses() -> None:
    broken = network()
    del broken.graph.initializer[0]
    inspect_network(broken.SerializeToString())  # nothing for the walk to see
    with pytest.raises(BundleError) as refused:
        OnnxRuntimeEngine(broken.SerializeToString())
    assert refused.value.code == "malformed_network"


def test_an_open_input_size_is_refused() -> None:
    opened = network()
    opened.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(BundleError) as refused:
        OnnxRuntimeEngine(opened.SerializeToString())
    assert refused.value.code == "wrong_inputs_outputs"


def test_tensors_outside_the_file_are_not_found_even_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk refuses such files; this is the second line, for a file that the walk did not see."""
    model = network()
    tensor = model.graph.initializer[0]
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    monkeypatch.chdir(tmp_path)
    onnxruntime.InferenceSession(model.SerializeToString())  # without the pin the runtime reads it
    with pytest.raises(BundleError) as refused:
        OnnxRuntimeEngine(model.SerializeToString())
    assert refused.value.code == "malformed_network"


def test_idle_engines_take_no_time(engine: OnnxRuntimeEngine) -> None:
    """Nothing spins between requests."""
    engine.run(film(0))
    before = os.times()
    time.sleep(0.3)
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.1


def test_loading_says_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    broken = network()
    broken.graph.node[0].input[0] = "nowhere"
    with pytest.raises(BundleError):
        OnnxRuntimeEngine(broken.SerializeToString())
    assert capfd.readouterr() == ("", "")


def test_the_runtime_does_not_try_again_or_print(capfd: pytest.CaptureFixture[str]) -> None:
    """Its Python layer answers some errors with a message on stdout and a second try."""
    broken = network().SerializeToString().replace(b"\x12\x02c0", b"\x12\x02\xff0", 1)
    with pytest.raises(BundleError):
        OnnxRuntimeEngine(broken)
    assert capfd.readouterr() == ("", "")


def test_a_failure_inside_the_runtime_is_a_fault_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    engine = OnnxRuntimeEngine(failing_network().SerializeToString())
    with pytest.raises(InternalError) as fault:
        engine.run(film(0))
    assert "Gather" in str(fault.value.__cause__)
    assert capfd.readouterr() == ("", "")


def failing_network() -> onnx.ModelProto:
    """Takes the tenth of three logits."""
    model = network()
    model.graph.node[-1].output[0] = "three"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([9, 9, 9]), "tenth"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["three", "tenth"], ["logits"], axis=1))
    return model
