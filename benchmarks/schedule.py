"""When an open-loop load sends: instants of a Poisson process, drawn from a seed before the first request is sent.

An open loop asks at the rate of its users, whatever the service does; a closed loop waits for answers and so asks less of a slow
service (Schroeder, Wierman, Harchol-Balter, NSDI 2006). Latency is therefore taken from open loops, capacity from closed ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def poisson_schedule(rate_per_s: float, duration_s: float, seed: int) -> NDArray[np.float64]:
    """Instants in [0, duration_s), seconds, ascending: gaps are exponential with mean 1 / rate_per_s.

    Raises:
        ValueError: a rate or a duration that is not positive.
    """
    if rate_per_s <= 0 or duration_s <= 0:
        raise ValueError(f"{rate_per_s} requests per second for {duration_s} s")
    rng = np.random.default_rng(seed)
    expected = rate_per_s * duration_s
    instants = np.empty(0)
    while not instants.size or instants[-1] < duration_s:
        gaps = rng.exponential(1.0 / rate_per_s, int(expected + 4 * np.sqrt(expected)) + 16)
        last = instants[-1] if instants.size else 0.0
        instants = np.concatenate([instants, last + np.cumsum(gaps)])
    return instants[instants < duration_s]


def every_nth(n: int, count: int) -> NDArray[np.bool_]:
    """True at every n-th of `count` places, the first included; which requests of a schedule are urgent."""
    return np.asarray(np.arange(count) % n == 0)
