"""OpenVINO on the CPU: the extra `openvino`; without it these tests are skipped, but for the one that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from app.errors import BundleError, InternalError
from app.inference import openvino as module
from app.inference.engine import OnnxRuntimeEngine
from app.inference.openvino import OpenVinoEngine, openvino
from app.settings import PROJECT_ROOT
from tests.inference.test_engine import film, network
from tests.support.openvino_here import INSTALLED, needs_openvino
from tests.support.quantised import quantised


def capable(precision: str) -> bool:
    return INSTALLED and precision in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


needs_bf16 = pytest.mark.skipif(not capable("BF16"), reason="needs a CPU with bf16")


@pytest.fixture(scope="module")
def reference() -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(network().SerializeToString())


@needs_openvino
def test_the_engine_says_what_it_is() -> None:
    info = OpenVinoEngine(network().SerializeToString(), precision="fp32", threads=2).info
    assert (info.name, info.precision, info.threads) == ("openvino", "fp32", 2)
    assert openvino().__version__.startswith(f"{info.version}-")


@needs_openvino
def test_fp32_gives_what_the_reference_gives(reference: OnnxRuntimeEngine) -> None:
    """Unasked, a CPU with bf16 would compute in that, and this would fail."""
    engine = OpenVinoEngine(network().SerializeToString(), precision="fp32")
    for seed in range(8):
        ours, wanted = engine.run(film(seed)), reference.run(film(seed))
        np.testing.assert_allclose(ours.logits, wanted.logits, atol=1e-5)
        np.testing.assert_allclose(ours.features, wanted.features, atol=1e-5)
        assert (ours.logits.dtype.name, ours.features.dtype.name) == ("float32", "float32")


@needs_bf16
def test_bf16_is_bf16_and_near_the_reference(reference: OnnxRuntimeEngine) -> None:
    engine = OpenVinoEngine(network().SerializeToString(), precision="bf16")
    assert engine.info.precision == "bf16"
    shift = max(float(np.abs(engine.run(film(i)).logits - reference.run(film(i)).logits).max()) for i in range(8))
    assert 1e-5 < shift < 0.05


@needs_openvino
def test_a_quantised_network_is_int8_and_another_is_not() -> None:
    assert (
        OpenVinoEngine(
            quantised(network().SerializeToString(), [film(i) for i in range(4)]), precision="int8"
        ).info.precision
        == "int8"
    )
    with pytest.raises(BundleError, match="asked for int8 and computes in fp32") as refused:
        OpenVinoEngine(network().SerializeToString(), precision="int8")
    assert refused.value.code == "engine_precision"


@needs_bf16
def test_the_precision_is_read_back_and_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a release that takes the wish and computes otherwise."""
    monkeypatch.setattr(module, "_HINTS", {"fp32": "bf16", "bf16": "bf16", "int8": "f32"})
    with pytest.raises(BundleError) as refused:
        OpenVinoEngine(network().SerializeToString(), precision="fp32")
    assert refused.value.code == "engine_precision"
    assert "asked for fp32 and computes in bf16" in str(refused.value)


@needs_bf16
def test_a_cpu_that_cannot_is_named(tmp_path: Path) -> None:
    """oneDNN is told to know no instruction beyond AVX2, as on an older CPU; OpenVINO itself still claims bf16."""
    (tmp_path / "network.onnx").write_bytes(network().SerializeToString())
    code = (
        "import sys; from pathlib import Path; from app.inference.openvino import OpenVinoEngine\n"
        "print(OpenVinoEngine(Path(sys.argv[1]).read_bytes(), precision=sys.argv[2]).info.precision)"
    )
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(PROJECT_ROOT)}
    ends = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "network.onnx"), precision],
            env=env, capture_output=True, text=True, timeout=120, check=False,
        )
        for precision in ("fp32", "bf16")
    ]  # fmt: skip
    assert ends[0].stdout.strip() == "fp32"
    assert ends[1].stdout == ""
    assert "engine_unavailable: " in ends[1].stderr or "engine_precision: " in ends[1].stderr


@needs_openvino
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-5), pytest.param("bf16", 0.02, marks=needs_bf16)])
def test_many_films_are_the_same_films_one_by_one(precision: Literal["fp32", "bf16"], within: float) -> None:
    engine = OpenVinoEngine(network().SerializeToString(), precision=precision, most=4)
    films = np.stack([film(seed) for seed in range(11)])
    outputs = engine.run_many(films)
    for values, output in zip(films, outputs, strict=True):
        alone = engine.run(values)
        np.testing.assert_allclose(output.logits, alone.logits, atol=within)
        np.testing.assert_allclose(output.features, alone.features, atol=within)


@needs_openvino
def test_a_network_with_a_fixed_batch_takes_films_one_by_one() -> None:
    model = network()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    engine = OpenVinoEngine(model.SerializeToString(), precision="fp32", most=4)
    assert len(engine.run_many(np.stack([film(seed) for seed in range(3)]))) == 3


@needs_openvino
def test_many_threads_share_one_engine_and_outputs_stay() -> None:
    engine = OpenVinoEngine(network().SerializeToString(), precision="fp32", callers=2)
    films = [film(seed) for seed in range(40)]
    alone = [engine.run(values).logits for values in films]
    kept = [values.copy() for values in alone]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda values: engine.run(values).logits, films))
    np.testing.assert_array_equal(together, kept)
    np.testing.assert_array_equal(alone, kept)  # the memory of a request is used again


@needs_openvino
def test_faults_are_ours() -> None:
    engine = OpenVinoEngine(network().SerializeToString(), precision="fp32")
    with pytest.raises(InternalError) as fault:
        engine.run(np.zeros((3, 64, 64), np.float32))
    assert "takes float32 (1, 64, 64)" in str(fault.value.__cause__)
    with pytest.raises(InternalError) as fault:
        engine.run(np.full((1, 64, 64), np.inf, np.float32))
    assert "not finite" in str(fault.value.__cause__)


@needs_openvino
def test_networks_that_are_refused() -> None:
    with pytest.raises(BundleError) as refused:
        OpenVinoEngine(b"\x08\x0a", precision="fp32")
    assert refused.value.code == "malformed_network"
    opened = network()
    opened.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(BundleError) as refused:
        OpenVinoEngine(opened.SerializeToString(), precision="fp32")
    assert refused.value.code == "wrong_inputs_outputs"


@needs_openvino
def test_a_compiled_network_is_kept_and_found_again(tmp_path: Path) -> None:
    cache = tmp_path / "state" / "openvino"
    data = network().SerializeToString()
    first = OpenVinoEngine(data, precision="fp32", cache_dir=cache)
    assert cache.stat().st_mode & 0o777 == 0o700
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("*/*.blob")}
    assert kept
    again = OpenVinoEngine(data, precision="fp32", cache_dir=cache)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*/*.blob")} == kept
    assert len(list(cache.iterdir())) == 1
    np.testing.assert_array_equal(first.run(film(1)).logits, again.run(film(1)).logits)
    other = OpenVinoEngine(network(seed=5).SerializeToString(), precision="fp32", cache_dir=cache)
    assert not np.array_equal(other.run(film(1)).logits, again.run(film(1)).logits)
    assert len(list(cache.iterdir())) == 2


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BundleError) as refused:
        OpenVinoEngine(b"", precision="fp32")
    assert refused.value.code == "engine_unavailable"
    assert "extra 'openvino'" in str(refused.value)


LOADS = """
import sys
{first}
from app.inference.openvino import openvino
openvino()
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry.")))
"""


@needs_openvino
@pytest.mark.parametrize("first", ["", "import openvino"], ids=["ours", "plain"])
def test_its_telemetry_is_cut_off(tmp_path: Path, first: str) -> None:
    """The package reports every import, and keeps an id for that in the user's home; imported plainly, it would."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT)}
    if first:  # only its modules are looked at: in CI it loads them and sends nothing
        env["CI"] = "true"
    command = [sys.executable, "-c", LOADS.format(first=first)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=120)
    if first:
        assert "openvino_telemetry.main" in done.stdout
    else:
        assert done.stdout.strip() == "[]"
        assert list(tmp_path.rglob("*")) == []


def test_it_is_imported_only_where_it_is_asked_for() -> None:
    code = "import sys, app.main, app.cli.main; print('openvino' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120, cwd=PROJECT_ROOT
    )
    assert done.stdout.strip() == "False"


@needs_openvino
def test_a_signal_finds_a_stack_after_engines_came_and_went(tmp_path: Path) -> None:
    """They go in the order in which they came, as after a measurement."""
    (tmp_path / "network.onnx").write_bytes(network().SerializeToString())
    code = (
        "import os, signal, sys; from pathlib import Path; from app.inference.openvino import OpenVinoEngine\n"
        "data = Path(sys.argv[1]).read_bytes()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('heard', flush=True))\n"
        "engines = [OpenVinoEngine(data, precision='fp32') for _ in range(2)]\n"
        "del engines[0]\n"
        "del engines[0]\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "network.onnx")],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "heard\n")
