"""app.drift: PSI by hand, its noise by simulation, and reports on synthetic windows with known changes."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.domain import STATISTICS
from app.drift import (
    FLOOR,
    PROJECTION_SIZE,
    DriftReport,
    DriftWindow,
    bin_counts,
    drift_report,
    level_of,
    project,
    psi,
    reference_arrays,
)

unhurried = settings(deadline=None)  # the cores are shared

SINCE, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 8, tzinfo=UTC)
CLASSES = ("normal", "pneumonia")
CHANNELS = 32
Floats = NDArray[np.float64]


def films(rng: np.random.Generator, n: int) -> dict[str, Floats]:
    """Statistics of n synthetic films: shapes as real ones have them, two with values that many films share."""
    return {
        "mean": rng.normal(120, 15, n),
        "std": rng.gamma(20, 3, n),
        "aspect": np.where(rng.random(n) < 0.6, 1.0, rng.normal(1.2, 0.1, n)),
        "dark_fraction": rng.beta(2, 8, n),
        "bright_fraction": np.where(rng.random(n) < 0.7, 0.0, rng.beta(1, 50, n)),
        "sharpness": rng.lognormal(2, 0.3, n),
        "confidence": 1 - rng.beta(1, 8, n) / 2,
    }


def features(rng: np.random.Generator, n: int, shift: float = 0.0) -> NDArray[np.float32]:
    return (rng.gamma(2, 1, (n, CHANNELS)) + shift).astype(np.float32)


def reference(n: int = 2000, **changes: Any) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(1)
    labels = ["pneumonia" if v < 0.3 else "normal" for v in rng.random(n)]
    arguments = {"statistics": films(rng, n), "labels": labels, "classes": CLASSES, "pooled_features": features(rng, n)}
    return reference_arrays(**{**arguments, **changes}, seed=7)


def window(
    made: dict[str, NDArray[Any]],
    n: int = 600,
    *,
    seed: int = 2,
    shift: float = 0.0,
    share: float = 0.3,
    **changes: Any,
) -> DriftWindow:
    rng = np.random.default_rng(seed)
    statistics = {**films(rng, n), **changes}
    projection = np.asarray(made["projection"], dtype=np.float32)
    projections = np.stack([project(projection, row) for row in features(rng, n, shift)])
    positive = round(share * n)
    return DriftWindow(SINCE, UNTIL, n, statistics, {"pneumonia": positive, "normal": n - positive}, projections)


def level(report: DriftReport, name: str) -> str:
    return next(s.level for s in report.statistics if s.name == name)


# psi


def test_psi_by_hand() -> None:
    # (0.5 - 0.25) ln 2 + (0.5 - 0.75) ln(2/3)
    expected = 0.25 * math.log(2) - 0.25 * math.log(2 / 3)
    assert psi([0.25, 0.75], [10, 10]) == pytest.approx(expected, rel=1e-15)


def test_psi_of_an_empty_bin_is_finite_and_floored() -> None:
    assert psi([0.5, 0.5], [20, 0]) == pytest.approx(0.5 * math.log(2) + (0.5 - FLOOR) * math.log(0.5 / FLOOR))
    assert psi([1.0, 0.0], [20, 0]) == 0.0


def test_psi_without_a_count_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        psi([0.5, 0.5], [0, 0])


PROPORTIONS = st.lists(st.integers(0, 1000), min_size=2, max_size=12).filter(lambda c: sum(c) > 0)


@unhurried
@given(PROPORTIONS, st.randoms(use_true_random=False))
def test_psi_is_zero_on_itself_never_negative_symmetric_and_blind_to_order(counts: list[int], random: Any) -> None:
    other = counts[:]
    random.shuffle(other)
    p, q = np.array(counts) / sum(counts), np.array(other) / sum(other)
    assert psi(p, counts) == pytest.approx(0.0, abs=1e-12)
    value = psi(p, other)
    assert value >= 0
    assert math.isfinite(value)
    assert value == pytest.approx(psi(q, counts), abs=1e-12)
    order = list(range(len(counts)))
    random.shuffle(order)
    assert psi(p[order], np.array(other)[order]) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [(0.0, "ok"), (0.0999, "ok"), (0.1, "watch"), (0.1999, "watch"), (0.2, "alert"), (9.0, "alert")],
)
def test_levels(divergence: float, expected: str) -> None:
    assert level_of(divergence) == expected


def test_the_minimum_of_500_stands_where_noise_stops_to_alarm() -> None:
    """Ten bins, nothing changed: PSI reaches 0.1 in about 40 % of windows of 100 films and in none of 2,000 windows of 500."""
    rng = np.random.default_rng(0)
    tenths = np.full(10, 0.1)
    noise = {n: np.array([psi(tenths, c) for c in rng.multinomial(n, tenths, size=2000)]) for n in (100, 500)}
    assert 0.35 < np.mean(noise[100] >= 0.1) < 0.45
    assert np.mean(noise[500] >= 0.1) == 0.0
    assert noise[500].mean() == pytest.approx(9 / 500, rel=0.05)


# bins


def test_bins_are_open_to_both_sides_and_closed_below() -> None:
    edges = np.array([0.0, 1.0])
    assert bin_counts([-np.inf, -1e300, -1e-9, 0.0, 0.5, 1.0, 1e300, np.inf], edges).tolist() == [3, 2, 3]
    assert bin_counts([], edges).tolist() == [0, 0, 0]
    assert bin_counts([np.nan, 0.5], edges).tolist() == [0, 1, 0]
    assert bin_counts([1.0], edges).dtype == np.int64


@unhurried
@given(
    st.lists(st.floats(allow_nan=False), max_size=50), st.lists(st.floats(-10, 10), min_size=9, max_size=9).map(sorted)
)
def test_every_number_is_counted_once(values: list[float], edges: list[float]) -> None:
    counts = bin_counts(values, edges)
    assert len(counts) == 10
    assert counts.sum() == len(values)


# the reference


def test_reference_holds_what_a_bundle_stores() -> None:
    made = reference()
    expected = {f"{kind}_{name}" for name in STATISTICS for kind in ("edges", "proportions")}
    assert set(made) == expected | {"class_proportions", "projection", "projected_mean", "projected_cov", "n"}
    for name in STATISTICS:
        assert made[f"edges_{name}"].shape == (9,)
        assert made[f"proportions_{name}"].shape == (10,)
        assert made[f"edges_{name}"].dtype == made[f"proportions_{name}"].dtype == np.float64
        assert made[f"proportions_{name}"].sum() == pytest.approx(1.0)
    assert (made["projection"].shape, str(made["projection"].dtype)) == ((PROJECTION_SIZE, CHANNELS), "float32")
    assert (made["projected_mean"].shape, made["projected_cov"].shape) == ((16,), (16, 16))
    assert (made["n"].shape, int(made["n"]), str(made["n"].dtype)) == ((), 2000, "int64")


def test_reference_survives_its_file() -> None:
    made, file = reference(), io.BytesIO()
    np.savez(file, allow_pickle=False, **made)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        back = {name: loaded[name] for name in loaded.files}
    assert all(np.array_equal(back[name], made[name]) and back[name].dtype == made[name].dtype for name in made)
    assert drift_report(back, window(made), CLASSES, minimum=500) == drift_report(
        made, window(made), CLASSES, minimum=500
    )


def test_a_continuous_statistic_has_ten_even_bins() -> None:
    made = reference()
    assert made["proportions_mean"] == pytest.approx(np.full(10, 0.1), abs=0.001)


def test_class_proportions_of_single_labels_and_of_label_sets() -> None:
    rng = np.random.default_rng(0)
    four: dict[str, Any] = {"statistics": films(rng, 4), "pooled_features": features(rng, 4)}
    single = reference(labels=["normal", "pneumonia", "normal", "normal"], **four)
    assert single["class_proportions"].tolist() == [0.75, 0.25]
    sets = reference(labels=[(), ("a", "b"), ("b",), ("b",)], classes=("a", "b", "c"), **four)
    assert sets["class_proportions"].tolist() == [0.25, 0.75, 0.0]


@pytest.mark.parametrize("channels", [5, 16, 40])
def test_projection_is_seeded_and_orthonormal(channels: int) -> None:
    rng = np.random.default_rng(0)
    pooled = rng.random((3, channels)).astype(np.float32)
    given_: dict[str, Any] = {"statistics": films(rng, 3), "labels": ["normal"] * 3, "classes": CLASSES}
    one, same = (reference_arrays(pooled_features=pooled, seed=3, **given_)["projection"] for _ in range(2))
    other = reference_arrays(pooled_features=pooled, seed=4, **given_)["projection"]
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    p = np.asarray(one, dtype=np.float64)
    product = p @ p.T if channels >= 16 else p.T @ p
    assert product == pytest.approx(np.eye(len(product)), abs=1e-6)


def test_project_by_hand() -> None:
    projection = np.zeros((16, 2), dtype=np.float32)
    projection[0], projection[15] = [1, 2], [0, -1]
    numbers = project(projection, np.array([3.0, 0.5]))
    assert numbers.dtype == np.float32
    assert numbers.tolist() == [4.0, *[0.0] * 14, -0.5]


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ["normal"] * 1999},
        {"pooled_features": np.full((2000, 3), np.nan)},
        {"pooled_features": np.zeros(2000)},
        {"statistics": {}},
        {"statistics": films(np.random.default_rng(0), 1999)},
        {"statistics": {**films(np.random.default_rng(0), 2000), "mean": np.full(2000, np.inf)}},
    ],
)
def test_a_reference_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"need|must have"):
        reference(**changes)


# reports


def test_nothing_changed_is_ok() -> None:
    made = reference()
    report = drift_report(made, window(made), CLASSES, minimum=500)
    assert report.level == "ok"
    assert {s.level for s in report.statistics} | {c.level for c in report.classes} | {report.embedding.level} == {"ok"}
    assert (report.n, report.minimum, report.n_reference) == (600, 500, 2000)
    assert (report.since, report.until) == (SINCE, UNTIL)
    mean = report.statistics[0]
    assert (mean.name, mean.n) == ("mean", 600)
    assert mean.chance == pytest.approx(9 * (1 / 600 + 1 / 2000))
    assert sum(mean.observed) == pytest.approx(1.0)


def test_below_the_minimum_is_insufficient_data() -> None:
    made = reference()
    report = drift_report(made, window(made, 499, share=0.9), CLASSES, minimum=500)
    assert report.level == "insufficient_data"
    assert {s.level for s in report.statistics} == {"insufficient_data"}
    assert {c.level for c in report.classes} == {report.embedding.level} == {"insufficient_data"}
    assert all(s.psi is None and s.chance is None for s in report.statistics)
    assert report.embedding.distance is None


def test_an_empty_window_is_insufficient_data() -> None:
    made = reference()
    empty = DriftWindow(SINCE, UNTIL, 0, {}, {}, np.empty((0, 16), dtype=np.float32))
    for minimum in (500, 0):
        report = drift_report(made, empty, CLASSES, minimum=minimum)
        assert report.level == "insufficient_data"
        assert report.classes[0].observed is None
        assert report.statistics[0].observed == ()


def test_a_small_reference_is_insufficient_data() -> None:
    made = reference(179)
    assert drift_report(made, window(made), CLASSES, minimum=500).level == "insufficient_data"
    assert drift_report(reference(180), window(made), CLASSES, minimum=500).statistics[0].psi is not None


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "ok"), (0.4, "watch"), (1.0, "alert")])
def test_a_shift_of_the_mean_in_standard_deviations(shift: float, expected: str) -> None:
    made = reference()
    moved = np.random.default_rng(5).normal(120 + 15 * shift, 15, 2000)
    report = drift_report(made, window(made, 2000, mean=moved), CLASSES, minimum=500)
    assert level(report, "mean") == expected
    assert report.level == expected
    assert level(report, "std") == "ok"


@pytest.mark.parametrize("moved", [0.99, 1.01, -math.inf, math.inf])
def test_a_constant_statistic_is_watched_on_both_sides(moved: float) -> None:
    n = 2000
    statistics = {**films(np.random.default_rng(1), n), "aspect": np.ones(n)}
    made = reference(n, statistics=statistics)
    assert np.all(np.diff(made["edges_aspect"]) >= 0)
    same = drift_report(made, window(made, aspect=np.ones(600)), CLASSES, minimum=500)
    assert (level(same, "aspect"), same.statistics[2].psi, same.statistics[2].chance) == ("ok", 0.0, 0.0)
    changed = drift_report(made, window(made, aspect=np.full(600, moved)), CLASSES, minimum=500)
    assert level(changed, "aspect") == "alert"


def test_a_value_that_most_films_share_is_seen_to_leave_upwards() -> None:
    made = reference()
    moved = window(made, bright_fraction=np.full(600, 1e-6))  # was exactly 0 in 70 % of films
    assert level(drift_report(made, moved, CLASSES, minimum=500), "bright_fraction") == "alert"


def test_class_shares() -> None:
    made = reference()
    report = drift_report(made, window(made, share=0.6), CLASSES, minimum=500)
    normal, pneumonia = report.classes
    assert pneumonia.expected == pytest.approx(0.3, abs=0.03)
    assert (pneumonia.observed, pneumonia.level, report.level) == (0.6, "alert", "alert")
    p = pneumonia.expected
    by_hand = (0.6 - p) * math.log(0.6 / p) + (p - 0.6) * math.log(0.4 / (1 - p))
    assert pneumonia.psi == pytest.approx(by_hand)
    assert normal.psi == pytest.approx(by_hand)


def test_multilabel_counts_each_label_alone_and_has_no_confidence() -> None:
    rng, n = np.random.default_rng(1), 1000
    statistics = {k: v for k, v in films(rng, n).items() if k != "confidence"}
    sets = [tuple(c for c, v in zip("abc", rng.random(3), strict=True) if v < 0.5) for _ in range(n)]
    made = reference(statistics=statistics, labels=sets, classes=("a", "b", "c"), pooled_features=features(rng, n))
    seen = window(made, n, confidence=np.full(n, np.nan))
    seen = DriftWindow(
        SINCE, UNTIL, n, seen.statistics, {"a": 500, "b": 500, "c": 900, "no_finding": 40}, seen.projections
    )
    report = drift_report(made, seen, ("a", "b", "c"), minimum=500)
    assert [c.level for c in report.classes] == ["ok", "ok", "alert"]
    confidence = report.statistics[-1]
    assert (confidence.name, confidence.level, confidence.n, confidence.edges) == (
        "confidence",
        "insufficient_data",
        0,
        (),
    )


def test_the_embedding_sees_a_shift_that_no_statistic_shows() -> None:
    made = reference()
    ok = drift_report(made, window(made), CLASSES, minimum=500).embedding
    assert (ok.level, ok.n) == ("ok", 600)
    assert ok.distance is not None
    assert ok.distance**2 == pytest.approx(16 * (1 / 600 + 1 / 2000), rel=0.8)  # chance alone
    moved = drift_report(made, window(made, shift=0.5), CLASSES, minimum=500)
    assert (moved.embedding.level, moved.level) == ("alert", "alert")
    assert {s.level for s in moved.statistics} == {"ok"}


def test_embedding_distance_by_hand() -> None:
    """Unit covariance: the distance is the Euclidean one; the divergence its square less what noise adds."""
    made = {**reference(), "projected_mean": np.zeros(16), "projected_cov": np.eye(16)}
    projections = np.zeros((1000, 16), dtype=np.float32)
    projections[:, 0], projections[:, 1] = 0.3, 0.4
    seen = window(made, 1000)
    seen = DriftWindow(SINCE, UNTIL, 1000, seen.statistics, seen.labels, projections)
    found = drift_report(made, seen, CLASSES, minimum=500).embedding
    assert found.distance == pytest.approx(0.5, abs=1e-6)
    assert found.divergence == pytest.approx(0.25 - 16 * (1 / 1000 + 1 / 2000), abs=1e-6)
    assert found.level == "alert"


def test_the_embedding_is_unmoved_by_rounding_in_a_direction_the_reference_does_not_use() -> None:
    covariance = np.eye(16)
    covariance[3, 3] = 0.0
    made = {**reference(), "projected_mean": np.zeros(16), "projected_cov": covariance}
    projections = np.random.default_rng(0).normal(0, 1, (2000, 16)).astype(np.float32)
    projections[:, 3] = 1e-6
    seen = window(made, 2000)
    seen = DriftWindow(SINCE, UNTIL, 2000, seen.statistics, seen.labels, projections)
    assert drift_report(made, seen, CLASSES, minimum=500).embedding.level == "ok"


def test_false_alarms_of_whole_reports_are_rare_at_the_minimum() -> None:
    """Nine statistics and the embedding, 500 films, nothing changed: no more than 1 of 100 windows says anything but ok."""
    made = reference(4000)
    levels = [drift_report(made, window(made, 500, seed=100 + i), CLASSES, minimum=500).level for i in range(100)]
    assert levels.count("ok") >= 99
