"""Films of several callers in one call: every answer belongs to its caller, one that fails fails alone, and none waits for company."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.domain import EngineInfo, NetworkOutput
from app.errors import InternalError
from app.inference.batching import BatchingEngine
from app.inference.engine import OnnxRuntimeEngine
from tests.inference.test_engine import film, network

INFO = EngineInfo("echo", "1", "fp32", 1)


class Echo:
    """Answers each film with its first pixel; a negative one is a fault, which fails the whole batch, as in a runtime."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.info = INFO
        self.seconds = seconds
        self.batches: list[int] = []
        self.inside = 0
        self.gate = threading.Event()
        self.gate.set()

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        return self.run_many(tensor[None])[0]

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        self.inside += 1
        assert self.inside == 1, "two calls at one time"
        self.gate.wait(10)
        time.sleep(self.seconds)
        self.batches.append(len(tensors))
        self.inside -= 1
        if (tensors[:, 0, 0, 0] < 0).any():
            raise InternalError
        return [NetworkOutput(values[0, 0, :1].copy(), values[:, :1, :1].copy()) for values in tensors]


def pixel(value: float) -> NDArray[np.float32]:
    return np.full((1, 2, 2), value, np.float32)


def storm(engine: BatchingEngine, values: list[float], callers: int) -> list[float | None]:
    """What each film was answered, None for a fault."""

    def call(value: float) -> float | None:
        try:
            return float(engine.run(pixel(value)).logits[0])
        except InternalError:
            return None

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(call, values))


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.sampled_from([*range(1, 50), -1]), min_size=1, max_size=60),
    callers=st.integers(1, 12),
    most=st.integers(2, 8),
    seconds=st.sampled_from([0.0, 0.0005]),
)
def test_every_answer_belongs_to_its_film(values: list[float], callers: int, most: int, seconds: float) -> None:
    echo = Echo(seconds)
    answers = storm(BatchingEngine(echo, most), values, callers)
    assert answers == [value if value > 0 else None for value in values]
    assert max(echo.batches) <= min(most, callers)


def test_what_queued_while_the_last_batch_ran_goes_next_together() -> None:
    echo = Echo()
    engine = BatchingEngine(echo, 4)
    echo.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(engine.run, pixel(1))
        until(lambda: echo.inside == 1)
        others = [pool.submit(engine.run, pixel(value)) for value in range(2, 8)]
        until(lambda: len(engine._waiting) == 6)
        echo.gate.set()
        assert [float(f.result(10).logits[0]) for f in (first, *others)] == [1, 2, 3, 4, 5, 6, 7]
    assert echo.batches == [1, 4, 2]


def test_a_film_that_fails_fails_alone() -> None:
    echo = Echo()
    engine = BatchingEngine(echo, 4)
    echo.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(engine.run, pixel(1))
        until(lambda: echo.inside == 1)
        others = [pool.submit(engine.run, pixel(value)) for value in (2, -1, 3)]
        until(lambda: len(engine._waiting) == 3)
        echo.gate.set()
        assert float(first.result(10).logits[0]) == 1
        assert [float(f.result(10).logits[0]) for f in (others[0], others[2])] == [2, 3]
        with pytest.raises(InternalError):
            others[1].result(10)
    assert echo.batches == [1, 3, 1, 1, 1]


def test_a_film_of_another_shape_is_the_engine_s_to_refuse() -> None:
    engine = BatchingEngine(OnnxRuntimeEngine(network().SerializeToString()), 4)
    values = [film(0), np.zeros((1, 8, 8), np.float32), film(1)]

    def call(tensor: NDArray[np.float32]) -> bool:
        try:
            return bool(np.isfinite(engine.run(tensor).logits).all())
        except InternalError:
            return False

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(call, values * 20)) == [True, False, True] * 20


def test_whatever_ends_the_leader_the_others_are_answered() -> None:
    class Ends(Echo):
        def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
            if (tensors == 13).any():
                raise SystemExit
            return super().run_many(tensors)

    echo = Ends(0.001)
    engine = BatchingEngine(echo, 3)

    def call(value: float) -> float | None:
        try:
            return float(engine.run(pixel(value)).logits[0])
        except (SystemExit, InternalError):
            return None

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(call, [1, 13, 2, 3, 13, 4] * 10))
    assert all(got in {want, None} for got, want in zip(answers, [1, None, 2, 3, None, 4] * 10, strict=True))
    assert float(engine.run(pixel(5)).logits[0]) == 5  # nobody leads any more, and the next film is served


def test_a_lone_caller_is_never_batched_and_the_engine_stays_what_it_is() -> None:
    echo = Echo()
    engine = BatchingEngine(echo, 8)
    assert [float(engine.run(pixel(i)).logits[0]) for i in range(1, 6)] == [1, 2, 3, 4, 5]
    assert echo.batches == [1] * 5
    assert engine.info == INFO
    assert [float(o.logits[0]) for o in engine.run_many(np.stack([pixel(3), pixel(4)]))] == [3, 4]
    with pytest.raises(ValueError, match="batches of 1"):
        BatchingEngine(echo, 1)


def test_the_network_gives_each_caller_the_logits_of_its_own_film() -> None:
    plain = OnnxRuntimeEngine(network().SerializeToString())
    films = [film(seed) for seed in range(16)]
    alone = [plain.run(values).logits for values in films]
    assert len({values.tobytes() for values in alone}) == 16
    engine = BatchingEngine(plain, 5)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: engine.run(films[i % 16]).logits, range(160)))
    for i, logits in enumerate(together):
        np.testing.assert_allclose(logits, alone[i % 16], atol=1e-5)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
