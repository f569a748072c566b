"""How a cost grows: the exponent of a power law, and the robust slope that tells a leak from noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike


def exponent(sizes: ArrayLike, costs: ArrayLike) -> float:
    """b of cost = a * size^b by least squares on logarithms: 0 constant, 1 linear, 2 quadratic.

    Raises:
        ValueError: fewer than two sizes, or a value that is not positive.
    """
    x, y = np.asarray(sizes, np.float64), np.asarray(costs, np.float64)
    if x.size < 2 or x.size != y.size or not ((x > 0).all() and (y > 0).all()):
        raise ValueError("a power law needs two or more positive sizes with a positive cost each")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Median of the slopes of all pairs of points (Theil 1950, Sen 1968): half of the points may be wild.

    Raises:
        ValueError: fewer than three points.
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if xs.size < 3 or xs.size != ys.size:
        raise ValueError("a slope needs three or more points")
    return float(np.median([(ys[j] - ys[i]) / (xs[j] - xs[i]) for i, j in combinations(range(xs.size), 2)]))


@dataclass(frozen=True)
class Growth:
    """What a quantity did over a run. rise: slope times the run's length; limit: the rise that is called growth."""

    name: str
    unit: str
    begin: float
    end: float
    rise: float
    limit: float

    @property
    def grew(self) -> bool:
        return self.rise > self.limit

    def __str__(self) -> str:
        verdict = "GREW" if self.grew else "flat"
        return (
            f"{self.name}: {self.begin:.6g} -> {self.end:.6g} {self.unit}, "
            f"rise {self.rise:+.3g} of at most {self.limit:.3g}: {verdict}"
        )


def growth(name: str, unit: str, at: Sequence[float], values: Sequence[float], *, warm: float, limit: float) -> Growth:
    """The rise of `values` over the run, the first `warm` share of it left out: caches, pools and arenas fill there."""
    x, y = np.asarray(at, np.float64), np.asarray(values, np.float64)
    kept = x >= x[0] + warm * (x[-1] - x[0])
    x, y = x[kept], y[kept]
    part = max(1, y.size // 5)
    begin, end = float(np.median(y[:part])), float(np.median(y[-part:]))
    return Growth(name, unit, begin, end, slope(x, y) * float(x[-1] - x[0]), limit)
