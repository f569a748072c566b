"""How fast engines are on this machine, beside each other: interleaved, as many callers as the service has workers.

Every round gives each engine one slot, in an order that turns from round to round, so that a change in what else the machine does
meets all of them. The figure is the median over the rounds, which a few disturbed slots do not move.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from app.inference.engine import Engine

TIE = 0.05  # a gain below this is none
_ROUNDS = 7
_SLOT_S = 0.2

Clock = Callable[[], float]


def measure(
    engines: Mapping[str, Engine],
    films: Sequence[NDArray[np.float32]],
    callers: int,
    *,
    rounds: int = _ROUNDS,
    slot_s: float = _SLOT_S,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Milliseconds per film by engine, with `callers` threads that call it without a pause; wall time over films.

    Takes about rounds * engines * slot_s seconds, and one film per caller and engine before that, to warm it.

    Args:
        films: float32 [C, S, S] each, run in turn.

    Raises:
        InternalError: an engine fails on a film.
    """
    names = list(engines)
    taken: dict[str, list[float]] = {name: [] for name in names}
    with ThreadPoolExecutor(callers, thread_name_prefix="cxr-measure") as pool:
        for name in names:
            _slot(pool, engines[name], films, callers, slot_s=0.0, clock=clock)
        for turn in range(rounds):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                taken[name].append(_slot(pool, engines[name], films, callers, slot_s=slot_s, clock=clock))
    return {name: statistics.median(values) * 1e3 for name, values in taken.items()}


def fastest(ms: Mapping[str, float], reference: str) -> str:
    """The engine with the lowest figure; the reference unless that is at least TIE faster."""
    best = min(ms, key=lambda name: (ms[name], name))
    return best if ms[best] < ms[reference] * (1.0 - TIE) else reference


def _slot(
    pool: ThreadPoolExecutor,
    engine: Engine,
    films: Sequence[NDArray[np.float32]],
    callers: int,
    *,
    slot_s: float,
    clock: Clock,
) -> float:
    """Seconds per film. Each caller runs films until the slot is over, one at least."""
    begun = clock()

    def call(first: int) -> int:
        done = 0
        while done == 0 or clock() - begun < slot_s:
            engine.run(films[(first + done) % len(films)])
            done += 1
        return done

    done = sum(pool.map(call, range(callers)))
    return (clock() - begun) / done
