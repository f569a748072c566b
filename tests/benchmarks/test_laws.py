"""How a cost grows: exponents, robust slopes, and the verdict of a soak."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.laws import exponent, growth, slope
from benchmarks.soak import EXCESS, FILES, LATENCY, MEMORY_MIB, WARM, Window, verdicts


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law(power: float) -> None:
    sizes = np.array([10.0, 100.0, 1_000.0, 10_000.0])
    assert exponent(sizes, 3 * sizes**power) == pytest.approx(power, abs=1e-9)


def test_an_exponent_needs_positive_points() -> None:
    for sizes, costs in (([1.0], [1.0]), ([1.0, 2.0], [1.0, 0.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="power law"):
            exponent(sizes, costs)


def test_a_slope_ignores_wild_points() -> None:
    y = 2.0 * np.arange(20.0)
    y[[3, 9, 15]] += 1_000
    assert slope(np.arange(20.0), y) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="three"):
        slope([1, 2], [1, 2])


def test_what_fills_at_the_beginning_is_no_growth() -> None:
    at = [float(i) for i in range(40)]
    filling = [100 * (1 - 2.0 ** (-i / 2)) for i in at]
    assert not growth("memory", "MiB", at, filling, warm=0.3, limit=5.0).grew
    assert growth("memory", "MiB", at, filling, warm=0.0, limit=5.0).grew
    assert growth("memory", "MiB", at, [v + i for v, i in zip(filling, at, strict=True)], warm=0.3, limit=5.0).grew


def soaked(memory: float = 0.0, files: float = 0.0, latency: float = 0.0) -> list[Window]:
    """Forty windows of a quiet service, with noise, and a rise of so much over the part that counts."""
    rng = np.random.default_rng(0)
    part = np.clip((np.arange(40) / 39 - WARM) / (1 - WARM), 0, 1)
    return [
        Window(
            requests=(i + 1) * 2_500,
            memory=300 + float(rng.normal(0, 1)) + memory * part[i],
            files=float(40 + int(files * part[i])),
            threads=14,
            latency=5 + float(rng.normal(0, 0.2)) + latency * part[i],
            cpu=3 + float(rng.normal(0, 0.1)),
        )
        for i in range(40)
    ]


def test_a_quiet_service_has_not_grown() -> None:
    assert [one.name for one in verdicts(soaked()) if one.grew] == []


@pytest.mark.parametrize(
    ("name", "rise"),
    [("memory", EXCESS * MEMORY_MIB), ("files", EXCESS * FILES), ("latency", EXCESS * LATENCY * 5)],
)
def test_a_fault_of_the_controls_size_is_found_and_nothing_else(name: str, rise: float) -> None:
    assert [one.name for one in verdicts(soaked(**{name: rise})) if one.grew] == [name]
