"""Drift: what the service sees now against the reference in the bundle. Pure statistics; no SQL, no clock.

Three kinds of numbers, one scale:

- each input statistic and the confidence: population stability index over ten bins, whose edges are the deciles of the reference;
- each class: the PSI of "predicted" against "not predicted" (for a binary bundle that is the PSI of the two classes);
- the pooled features, as 16 numbers per film: squared Mahalanobis distance of the means.

PSI = sum over bins of (q - p) ln(q / p) is the symmetrised Kullback-Leibler (Jeffreys) divergence of the binned distributions,
and the squared Mahalanobis distance is the same divergence of two normal distributions with equal covariance, so the same levels
serve all three: below 0.1 ok, from 0.1 watch, from 0.2 alert. For a normal variable 0.1 is a shift of the mean by a third of its
standard deviation, 0.2 by nearly half.

Noise: with nothing changed, PSI is about chi-squared with (bins - 1) degrees of freedom times (1/n + 1/n_reference). With ten bins and
a large reference that is 0.018 on average at n = 500, and hardly ever 0.1; at n = 100 it reaches 0.1 in about 40 % of windows. Hence
the minimum, below which the report says `insufficient_data`; each row carries its own `chance` level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.domain import STATISTICS

Floats: TypeAlias = NDArray[np.float64]
Level = Literal["ok", "watch", "alert", "insufficient_data"]

BINS = 10
PROJECTION_SIZE = 16
WATCH, ALERT = 0.1, 0.2

# An empty bin counts as this share on either side: a twentieth of one film in 500. It bounds a bin's term and adds nothing where
# both sides are empty.
FLOOR = 1e-4

# Below this the reference alone brings a PSI of (10 - 1) / 180 = 0.05 by chance, half the way to `watch`.
REFERENCE_MIN = 180

# Smallest variance along any direction of the projection, as a share of the total: a direction that the reference hardly uses must
# not turn rounding into an alert.
VARIANCE_FLOOR = 1e-6

_SEVERITY: dict[Level, int] = {"insufficient_data": 0, "ok": 1, "watch": 2, "alert": 3}


@dataclass(frozen=True)
class DriftWindow:
    """The predictions of one bundle in [since, until).

    n: predictions. statistics: float64 values by name of `STATISTICS`, NaN or left out where a prediction has none (confidence of
    a multilabel bundle). labels: films by predicted class (multilabel: by positive class). projections: [m, 16], m <= n.
    """

    since: datetime
    until: datetime
    n: int
    statistics: Mapping[str, Floats]
    labels: Mapping[str, int]
    projections: NDArray[np.floating]


@dataclass(frozen=True)
class StatisticDrift:
    """One input statistic, or the confidence. psi and chance (its expectation with nothing changed) are None without enough data.

    edges: the 9 inner bin edges; expected, observed: shares of the 10 bins.
    """

    name: str
    n: int
    psi: float | None
    chance: float | None
    level: Level
    edges: tuple[float, ...]
    expected: tuple[float, ...]
    observed: tuple[float, ...]


@dataclass(frozen=True)
class ClassDrift:
    """One class: share of films for which it was predicted (multilabel: positive), in the reference and in the window."""

    name: str
    expected: float
    observed: float | None
    psi: float | None
    chance: float | None
    level: Level


@dataclass(frozen=True)
class EmbeddingDrift:
    """Mean shift of the projected features.

    distance: Mahalanobis, in standard deviations of the reference. divergence: its square less `chance`, what noise adds to it on
    average, and not below 0; the level is taken on it.
    """

    n: int
    distance: float | None
    divergence: float | None
    chance: float | None
    level: Level


@dataclass(frozen=True)
class DriftReport:
    """level: the worst of all rows; `insufficient_data` if the window or the reference is too small for any."""

    since: datetime
    until: datetime
    n: int
    minimum: int
    n_reference: int
    level: Level
    statistics: tuple[StatisticDrift, ...]
    classes: tuple[ClassDrift, ...]
    embedding: EmbeddingDrift


def psi(expected_proportions: ArrayLike, counts: ArrayLike) -> float:
    """Population stability index (Siddiqi 2006) of observed counts [n_bins] against expected proportions [n_bins], >= 0.

    Shares below `FLOOR` are raised to it on both sides, so that an empty bin gives a finite value. ValueError without a count.
    """
    observed = np.asarray(counts, dtype=np.float64)
    if observed.sum() <= 0:
        raise ValueError("PSI needs at least one observation")
    p = np.maximum(np.asarray(expected_proportions, dtype=np.float64), FLOOR)
    q = np.maximum(observed / observed.sum(), FLOOR)
    return float(np.sum((q - p) * np.log(q / p)))


def bin_counts(values: ArrayLike, edges: ArrayLike) -> NDArray[np.int64]:
    """How many values lie in each bin, int64 [len(edges) + 1]; bin i is edges[i-1] <= value < edges[i].

    The outer bins reach to minus and plus infinity, so every number is counted; NaN is not.
    """
    numbers = np.asarray(values, dtype=np.float64)
    inner = np.asarray(edges, dtype=np.float64)
    places = np.searchsorted(inner, numbers[~np.isnan(numbers)], side="right")
    return np.bincount(places, minlength=len(inner) + 1).astype(np.int64)


def project(projection: NDArray[np.float32], pooled: ArrayLike) -> NDArray[np.float32]:
    """The 16 numbers of a film: projection [16, C] times pooled features [C], in float64, given as float32 [16]."""
    return (projection.astype(np.float64) @ np.asarray(pooled, dtype=np.float64)).astype(np.float32)


def reference_arrays(
    statistics: Mapping[str, ArrayLike],
    labels: Sequence[str | tuple[str, ...]],
    classes: Sequence[str],
    pooled_features: NDArray[np.floating],
    *,
    seed: int,
) -> dict[str, NDArray[Any]]:
    """The content of a bundle's `reference.npz`, from n films that the model was not fitted on.

    Args:
        statistics: n values for each of `STATISTICS`. `confidence` may be left out (multilabel); its arrays are then NaN.
        labels: predicted class of each film; multilabel: the tuple of its positive classes.
        pooled_features: [n, C].
        seed: of the projection.

    Raises:
        ValueError: fewer than two films, numbers of films that differ, a missing statistic, or values that are not finite.
    """
    n = len(labels)
    if n < 2 or pooled_features.ndim != 2 or len(pooled_features) != n or not np.isfinite(pooled_features).all():
        raise ValueError(f"{n} labels and finite features {pooled_features.shape}: need [n, C] with the same n >= 2")
    arrays: dict[str, NDArray[Any]] = {}
    for name in STATISTICS:
        edges, proportions = _reference_bins(name, statistics, n)
        arrays[f"edges_{name}"], arrays[f"proportions_{name}"] = edges, proportions
    sets = [{label} if isinstance(label, str) else set(label) for label in labels]
    arrays["class_proportions"] = np.array([sum(c in s for s in sets) / n for c in classes], dtype=np.float64)
    projection = _projection(pooled_features.shape[1], seed)
    projected = np.stack([project(projection, row) for row in pooled_features]).astype(np.float64)
    arrays["projection"] = projection
    arrays["projected_mean"] = projected.mean(axis=0)
    arrays["projected_cov"] = np.cov(projected, rowvar=False)
    arrays["n"] = np.array(n, dtype=np.int64)
    return arrays


def drift_report(
    reference: Mapping[str, NDArray[Any]], observed: DriftWindow, classes: Sequence[str], *, minimum: int
) -> DriftReport:
    """Compare a window with the reference of the bundle that made its predictions.

    Args:
        reference: content of `reference.npz` (`reference_arrays`).
        classes: the bundle's, in the order of `class_proportions`.
        minimum: fewest predictions that are compared; a statistic with fewer values is `insufficient_data` by itself. So is
            everything where the reference has fewer than `REFERENCE_MIN` films.
    """
    n_reference = int(reference["n"])
    needed = minimum if n_reference >= REFERENCE_MIN else None
    statistics = tuple(_statistic(name, reference, observed, needed) for name in STATISTICS)
    shares = np.asarray(reference["class_proportions"], dtype=np.float64)
    rows = tuple(
        _class(name, float(share), observed, n_reference, needed) for name, share in zip(classes, shares, strict=True)
    )
    embedding = _embedding(reference, observed, needed)
    levels: list[Level] = [*(s.level for s in statistics), *(r.level for r in rows), embedding.level]
    return DriftReport(
        since=observed.since,
        until=observed.until,
        n=observed.n,
        minimum=minimum,
        n_reference=n_reference,
        level=max(levels, key=_SEVERITY.__getitem__),
        statistics=statistics,
        classes=rows,
        embedding=embedding,
    )


def level_of(divergence: float) -> Level:
    """ok below 0.1, watch below 0.2, else alert."""
    if divergence < WATCH:
        return "ok"
    return "watch" if divergence < ALERT else "alert"


def _reference_bins(name: str, statistics: Mapping[str, ArrayLike], n: int) -> tuple[Floats, Floats]:
    if name == "confidence" and name not in statistics:
        return np.full(BINS - 1, np.nan), np.full(BINS, np.nan)
    if name not in statistics:
        raise ValueError(f"the reference needs the statistic {name!r}")
    values = np.asarray(statistics[name], dtype=np.float64)
    if values.shape != (n,) or not np.isfinite(values).all():
        raise ValueError(f"the statistic {name!r} must have {n} finite values")
    edges = np.quantile(values, np.arange(1, BINS) / BINS)
    # A value that many films share (aspect 1, no bright pixel) fills several deciles. It gets a bin of its own, closed just above it,
    # so that films move out of that bin upwards as well as downwards.
    repeated = np.r_[False, edges[1:] == edges[:-1]]
    edges = np.where(repeated, np.nextafter(edges, np.inf), edges)
    return edges, bin_counts(values, edges) / n


def _projection(channels: int, seed: int) -> NDArray[np.float32]:
    """Random [16, C] with orthonormal rows (columns if C < 16): distances shrink evenly, whatever the features' scale."""
    gaussian = np.random.default_rng(seed).standard_normal(
        (max(channels, PROJECTION_SIZE), min(channels, PROJECTION_SIZE))
    )
    q, r = np.linalg.qr(gaussian)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # QR leaves the signs open; positive diagonals settle them
    return (q.T if channels >= PROJECTION_SIZE else q).astype(np.float32)


def _statistic(
    name: str, reference: Mapping[str, NDArray[Any]], observed: DriftWindow, minimum: int | None
) -> StatisticDrift:
    edges = np.asarray(reference[f"edges_{name}"], dtype=np.float64)
    expected = np.asarray(reference[f"proportions_{name}"], dtype=np.float64)
    known = not np.isnan(edges).any()
    counts = bin_counts(observed.statistics.get(name, np.empty(0)), edges) if known else np.zeros(BINS, dtype=np.int64)
    n = int(counts.sum())
    value = psi(expected, counts) if minimum is not None and n >= max(1, minimum) else None
    filled = int(np.count_nonzero(expected))
    return StatisticDrift(
        name=name,
        n=n,
        psi=value,
        chance=None if value is None else _chance(filled - 1, n, reference),
        level="insufficient_data" if value is None else level_of(value),
        edges=tuple(edges.tolist()) if known else (),
        expected=tuple(expected.tolist()) if known else (),
        observed=tuple((counts / n).tolist()) if n else (),
    )


def _class(name: str, expected: float, observed: DriftWindow, n_reference: int, minimum: int | None) -> ClassDrift:
    n, count = observed.n, observed.labels.get(name, 0)
    value = (
        psi([expected, 1.0 - expected], [count, n - count]) if minimum is not None and n >= max(1, minimum) else None
    )
    return ClassDrift(
        name=name,
        expected=expected,
        observed=count / n if n else None,
        psi=value,
        chance=None if value is None else 1.0 / n + 1.0 / n_reference,
        level="insufficient_data" if value is None else level_of(value),
    )


def _embedding(reference: Mapping[str, NDArray[Any]], observed: DriftWindow, minimum: int | None) -> EmbeddingDrift:
    projections = np.asarray(observed.projections, dtype=np.float64)
    n = len(projections)
    if minimum is None or n < max(1, minimum):
        return EmbeddingDrift(n=n, distance=None, divergence=None, chance=None, level="insufficient_data")
    shift = projections.mean(axis=0) - np.asarray(reference["projected_mean"], dtype=np.float64)
    variances, directions = np.linalg.eigh(np.asarray(reference["projected_cov"], dtype=np.float64))
    smallest = max(VARIANCE_FLOOR * float(variances.sum()), float(np.finfo(np.float32).tiny))
    squared = float(np.sum((directions.T @ shift) ** 2 / np.maximum(variances, smallest)))
    chance = _chance(PROJECTION_SIZE, n, reference)
    divergence = max(0.0, squared - chance)
    return EmbeddingDrift(
        n=n, distance=float(np.sqrt(squared)), divergence=divergence, chance=chance, level=level_of(divergence)
    )


def _chance(degrees_of_freedom: int, n: int, reference: Mapping[str, NDArray[Any]]) -> float:
    return degrees_of_freedom * (1.0 / n + 1.0 / int(reference["n"]))
