"""The measurement on engines with a clock of their own: what is counted, in which order, and who wins."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain import EngineInfo, NetworkOutput
from app.errors import InternalError
from app.inference.engine import Engine
from app.inference.measure import fastest, measure


class Clock:
    """Advances only when an engine works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds


class Timed:
    """Takes the same time for each film; slow in some of its slots."""

    def __init__(self, clock: Clock, seconds: float, log: list[str] | None = None, name: str = "") -> None:
        self.info = EngineInfo("timed", "1", "fp32", 1)
        self.clock, self.seconds, self.log, self.name = clock, seconds, log if log is not None else [], name
        self.seen: Counter[float] = Counter()
        self.calls = 0
        self.disturbed: range = range(0)

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        self.calls += 1
        self.log.append(self.name)
        self.seen[float(tensor[0, 0, 0])] += 1
        self.clock.advance(self.seconds * (10 if self.calls in self.disturbed else 1))
        return NetworkOutput(tensor[0, 0, :1], tensor)

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        return [self.run(tensor) for tensor in tensors]


FILMS = [np.full((1, 1, 1), i, np.float32) for i in range(3)]


def test_the_figure_is_wall_time_per_film() -> None:
    clock = Clock()
    engines: dict[str, Engine] = {"a": Timed(clock, 0.004), "b": Timed(clock, 0.010)}
    ms = measure(engines, FILMS, 1, rounds=3, slot_s=0.1, clock=clock)
    assert ms == pytest.approx({"a": 4.0, "b": 10.0})


def test_every_round_measures_all_and_begins_with_another() -> None:
    clock, order = Clock(), list[str]()
    engines: dict[str, Engine] = {name: Timed(clock, 1 / 16, order, name) for name in "abc"}
    measure(engines, FILMS, 1, rounds=3, slot_s=1 / 16, clock=clock)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"


def test_disturbed_slots_do_not_decide() -> None:
    clock = Clock()
    quick = Timed(clock, 1 / 64)
    quick.disturbed = range(2, 4)  # the first two of five slots, one film each: something else ran
    engines: dict[str, Engine] = {"quick": quick, "slow": Timed(clock, 1 / 32)}
    assert measure(engines, FILMS, 1, rounds=5, slot_s=1 / 8, clock=clock) == {"quick": 15.625, "slow": 31.25}


def test_as_many_callers_as_workers_take_the_films_in_turn() -> None:
    clock = Clock()
    barrier = threading.Barrier(3, timeout=10)

    class Together(Timed):
        def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
            barrier.wait()  # broken, and the test fails, unless three call at one time
            return super().run(tensor)

    engine = Together(clock, 1.0)
    measure({"a": engine}, FILMS, 3, rounds=2, slot_s=0.5, clock=clock)
    assert engine.seen == {0.0: 3, 1.0: 3, 2.0: 3}


def test_an_engine_that_fails_ends_it() -> None:
    class Fails(Timed):
        def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
            raise InternalError

    with pytest.raises(InternalError):
        measure({"a": Fails(Clock(), 1.0)}, FILMS, 2, rounds=1, slot_s=0.1)


@pytest.mark.parametrize(
    ("ms", "wanted"),
    [
        ({"reference": 10.0, "a": 9.6, "b": 12.0}, "reference"),  # 4 % is no gain
        ({"reference": 10.0, "a": 9.4}, "a"),
        ({"reference": 10.0, "a": 5.0, "b": 4.9}, "b"),
        ({"reference": 10.0, "b": 5.0, "a": 5.0}, "a"),
        ({"reference": 10.0}, "reference"),
    ],
)
def test_the_fastest_wins_and_a_tie_goes_to_the_reference(ms: dict[str, float], wanted: str) -> None:
    assert fastest(ms, "reference") == wanted
