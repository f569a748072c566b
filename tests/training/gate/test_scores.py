"""The numbers that serving compares with: whitening, the weight of the doubt, limits, temperature."""

from __future__ import annotations

import numpy as np
import pytest

from app.gate import mahalanobis, pose_distance
from training.gate.scores import Floats, Seen, Upright, limits, reference, whitening

RNG = np.random.default_rng(3)


def _films(n: int, mean: Floats, doubt: float = 0.0) -> Floats:
    return np.asarray(np.c_[RNG.normal(mean, [1.0, 4.0, 0.5], (n, 3)), np.abs(RNG.normal(0, doubt, n))], np.float64)


UPRIGHT, TURNED = np.array([0.0, 0.0, 0.0]), np.array([30.0, 0.0, 0.0])


def test_whitened_residuals_have_unit_covariance() -> None:
    residuals = RNG.normal(0, [1.0, 4.0, 0.5], (20_000, 3))
    w = whitening(residuals)
    assert np.cov(residuals @ w.T, rowvar=False) == pytest.approx(np.eye(3), abs=0.08)
    assert mahalanobis(residuals, np.zeros(3), w).mean() == pytest.approx(0.93, abs=0.05)


def test_distance_is_to_the_nearest_pose_and_doubt_adds_to_it() -> None:
    poses = [_films(2000, UPRIGHT), _films(2000, TURNED)]
    known = reference(poses, RNG.normal(size=(100, 5)), _films(500, UPRIGHT, doubt=0.1))
    near = pose_distance(np.array([[0.0, 0, 0, 0], [30.0, 0, 0, 0], [15.0, 0, 0, 0]]), known)
    assert near[:2] == pytest.approx(0, abs=0.1)
    assert near[2] > 5
    doubted = pose_distance(np.array([[0.0, 0, 0, 0], [0, 0, 0, 0.2], [0, 0, 0, 2.0]]), known)
    assert doubted[0] < doubted[1] < doubted[2]


def test_doubt_weighs_as_much_as_layout_at_the_same_share() -> None:
    upright = _films(50_000, UPRIGHT, doubt=0.1)
    known = reference([_films(5000, UPRIGHT), _films(5000, TURNED)], RNG.normal(size=(100, 5)), upright)
    layout = pose_distance(np.c_[upright[:, :3], np.zeros(len(upright))], known)  # over four channels, one of them zero
    doubtful = np.array([[0.0, 0, 0, np.quantile(upright[:, 3], 0.996)]])
    far, median = np.quantile(layout, 0.996), np.median(layout)
    assert pose_distance(doubtful, known)[0] == pytest.approx(np.sqrt(far**2 - median**2), rel=0.02)


def test_no_source_is_refused_more_often_than_wanted() -> None:
    poses = [_films(2000, UPRIGHT), _films(2000, TURNED)]
    many, few = _films(900, UPRIGHT, 0.1), _films(100, UPRIGHT * 0 + 3, 0.3)
    upright = np.concatenate([many, few])
    network = RNG.normal(size=(1000, 5))
    known = reference(poses, network, upright)
    logits = np.c_[RNG.normal(4, 1, 1000), np.zeros(1000)]
    folders = ["many"] * 900 + ["few"] * 100
    poses = [logits, logits[:, ::-1]]
    held = limits(poses, Upright(Seen(logits, upright), network, folders), upright[:900], known)
    beyond = pose_distance(upright, known) > held.distance_above
    assert beyond[:900].mean() <= 0.01
    assert beyond[900:].mean() <= 0.01
    pooled = limits(poses, Upright(Seen(logits, upright), network, ["one"] * 1000), upright[:900], known)
    assert pooled.distance_above < held.distance_above  # the few would be refused more often


def test_the_limit_moves_towards_what_is_no_film_but_never_below_the_films() -> None:
    poses = [_films(2000, UPRIGHT), _films(2000, TURNED)]
    upright, network = _films(1000, UPRIGHT, 0.1), RNG.normal(size=(1000, 5))
    known = reference(poses, network, upright)
    logits = np.tile([1.0, 0.0], (1000, 1))
    seen = Upright(Seen(logits, upright), network, ["one"] * 1000)

    def limit(*others: float) -> float:
        features = np.array([[0.0, y, 0.0, 0.0] for y in others])  # spread 4, so y / 4 / sqrt(4 channels) away
        return limits([logits, logits[:, ::-1]], seen, features, known).distance_above

    alone = limit(0.0)
    assert (pose_distance(upright, known) > alone).mean() == pytest.approx(0.01, abs=0.002)
    assert limit(80.0) == pytest.approx(np.sqrt(alone * 80 / 4 / 2), rel=0.05)
    assert limit(*[80.0] * 9, *[800.0] * 91) == pytest.approx(limit(80.0), rel=0.01)  # a twentieth may pass


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_is_found(truth: float) -> None:
    scaled = RNG.normal(0, 2, (60_000, 3))
    chances = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    drawn = (chances.cumsum(axis=1) < RNG.random((60_000, 1))).sum(axis=1)
    logits = scaled * truth
    poses = [logits[drawn == k] for k in range(3)]
    known = reference([_films(50, UPRIGHT)] * 3, RNG.normal(size=(9, 5)), _films(50, UPRIGHT))
    seen = Upright(Seen(logits[:50], _films(50, UPRIGHT)), RNG.normal(size=(50, 5)), ["one"] * 50)
    held = limits(poses, seen, _films(50, UPRIGHT), known)
    assert held.temperature == pytest.approx(truth, rel=0.05)


def test_a_pose_counts_from_where_upright_films_are_hardly_mistaken() -> None:
    known = reference([_films(50, UPRIGHT)] * 2, RNG.normal(size=(9, 5)), _films(50, UPRIGHT))

    def certainty(wrong: float, logit: float) -> float:
        logits = np.tile([3.0, 0.0], (1000, 1))
        logits[: int(1000 * wrong)] = [0.0, logit]
        poses = [np.tile([1.0, 0.0], (1000, 1)), np.tile([0.0, 1.0], (1000, 1))]
        poses[0][:269], poses[1][:269] = [0.0, 1.0], [1.0, 0.0]  # 26.9 % mistaken at 73.1 %: a temperature of one
        seen = Upright(Seen(logits, _films(1000, UPRIGHT)), RNG.normal(size=(1000, 5)), ["one"] * 1000)
        return limits(poses, seen, _films(50, UPRIGHT), known).pose_probability_at_least

    assert certainty(0.0, 0.0) == 0.5
    assert certainty(0.01, 1.0) == 0.8  # mistaken at 73 %
    assert certainty(0.01, 2.5) == 0.95  # mistaken at 92 %
