from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from training.judging.shift import (
    embedding_shift,
    frechet,
    independent_test,
    mmd2,
    paired_swaps,
    permuted_mmd2,
    rbf_kernel,
    shrunk_covariance,
)

Floats = NDArray[np.float64]


def _names(n: int, films: int = 1) -> NDArray[np.str_]:
    return np.array([f"p{i // films}" for i in range(n)])


def test_frechet_of_known_gaussians() -> None:
    """|m|^2 + sum (s1 - s2)^2 = 4 + 3 * 1 for a shift of 2 along one axis and standard deviations 1 and 2."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20_000, 3)), 2 * rng.standard_normal((20_000, 3)) + np.array([2.0, 0, 0])
    assert frechet(x, y) == pytest.approx(7.0, rel=0.03)
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-9)


def test_the_shrinkage_is_scikit_learns() -> None:
    x = np.random.default_rng(6).standard_normal((12, 8)) @ np.diag(np.arange(1.0, 9))
    np.testing.assert_allclose(shrunk_covariance(x), ledoit_wolf(x)[0], rtol=1e-10)


def test_mmd_of_known_gaussians() -> None:
    """E k over two Gaussians is Gaussian: with unit variances, D axes, width w and mean gap m,
    MMD^2 = 2 (w^2 / (w^2 + 2))^(D/2) (1 - exp(-m^2 / (2 (w^2 + 2))))."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((800, 2)), rng.standard_normal((800, 2)) + np.array([1.5, 0])
    points = np.vstack([x, y])
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2) ** 2
    square = float(np.median(gaps[np.triu_indices(len(points), 1)]))
    expected = 2 * square / (square + 2) * (1 - np.exp(-(1.5**2) / (2 * (square + 2))))
    measured = mmd2(rbf_kernel(points), np.arange(800), np.arange(800, 1600))
    assert measured == pytest.approx(expected, rel=0.15)


def test_the_swapped_mmd_is_the_mmd_of_the_swapped_samples() -> None:
    rng = np.random.default_rng(2)
    kernel = rbf_kernel(rng.standard_normal((20, 3)))
    swaps = paired_swaps(_names(10, 2), 5, 0)
    for swap, value in zip(swaps, permuted_mmd2(kernel, swaps), strict=True):
        first = np.where(swap, np.arange(10) + 10, np.arange(10))
        second = np.where(swap, np.arange(10), np.arange(10) + 10)
        assert value == pytest.approx(mmd2(kernel, first, second), abs=1e-12)
        assert np.all(swap[::2] == swap[1::2])  # both films of a patient together


def test_nothing_changed_is_seldom_an_alarm() -> None:
    """At the 5 % level, of 100 pairs of samples of one distribution."""
    rng = np.random.default_rng(3)
    alarms = paired = 0
    for seed in range(100):
        x, y = rng.standard_normal((2, 30, 3))
        alarms += independent_test(x, y, permutations=60, seed=seed)[1] <= 0.05
        shift = embedding_shift(x, y, _names(30), bootstraps=2, permutations=60, seed=seed)
        paired += shift["mmd2"]["p_value"] <= 0.05
    assert alarms <= 11  # binomial(100, 0.05): 99.5 %
    assert paired <= 11


def test_a_shift_is_found_and_measured() -> None:
    rng = np.random.default_rng(4)
    clean = rng.standard_normal((200, 5)) + 3
    moved = clean + np.array([1.0, 0, 0, 0, 0]) + 0.1 * rng.standard_normal((200, 5))
    shift = embedding_shift(clean, moved, _names(200, 2), bootstraps=60, permutations=100)
    assert shift["n"] == 200
    assert shift["patients"] == 100
    assert shift["mmd2"]["p_value"] == pytest.approx(1 / 101)
    low, high = shift["frechet"]["ci"]
    assert low < 1.0 < high  # the true value: a shift of 1, the covariance all but the same
    assert shift["frechet"]["chance"] < 0.3
    assert shift["norm_change"]["value"] > 0
    assert 0 < shift["cosine"]["ci"][0] <= shift["cosine"]["value"] <= shift["cosine"]["ci"][1]


def test_unchanged_films_do_not_shift() -> None:
    clean = np.random.default_rng(5).standard_normal((40, 60))
    shift = embedding_shift(clean, clean.copy(), _names(40), bootstraps=10, permutations=20)
    assert shift["cosine"]["value"] == pytest.approx(0, abs=1e-12)
    assert shift["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert shift["mmd2"]["p_value"] == 1.0
    assert shift["dimensions"] == 32
    assert 0.5 < shift["variance_kept"] < 1
