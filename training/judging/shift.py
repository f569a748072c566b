"""How far the network's pooled features move when films change: cosine, norm, Frechet distance, and MMD with a permutation null.

`app.drift` watches a live service by 16 projected numbers against a stored mean and covariance; here both samples are at hand, film
by film, so distances of whole distributions can be taken. Each figure says from how many films and how many dimensions it comes:
a Frechet distance without them means nothing (FEATURES section 2, S3-24).

- cosine: mean over films of 1 - cos(clean, changed) of the same film (paired), and 1 - cos of the two means.
- norm: mean norm of the changed features over that of the clean ones, less 1.
- Frechet (Dowson & Landau 1982): |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2), covariances shrunk by Ledoit & Wolf 2004, on the first
  principal components of both samples together (at most `DIMENSIONS`). It is above 0 for finite samples of one distribution:
  `chance` is its mean when the films are swapped between the samples at random.
- MMD^2 (Gretton et al. 2012, unbiased): RBF kernel, its width the median distance of all pairs; p = (1 + permutations with at least
  this MMD) / (1 + permutations). For paired samples a permutation swaps clean and changed film of a patient, all his films
  together; for independent ones patients are dealt out anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.judging.answers import Figure, Floats, Index
from training.judging.figures import patient_samples

DIMENSIONS = 32
CHANCES = 30  # random swaps behind the Frechet distance's `chance`
ROUNDING = 1e-12


def embedding_shift(
    clean: Floats,
    changed: Floats,
    patients: NDArray[np.str_],
    *,
    bootstraps: int = 100,
    permutations: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """The shift of the same N films, clean and changed.

    Args:
        clean, changed: float64 [N, C], pooled features, row by row of the same film.
        patients: str [N].

    Returns:
        n, dimensions, variance_kept, cosine, cosine_of_means, norm_change, frechet (with `chance`), mmd2 (with `p_value`); intervals
        by resampled patients, those of frechet and mmd2 basic (reflected) and floored at 0, since resampling inflates both.
    """
    both, kept = reduced(clean, changed)
    n = len(clean)
    a, b = both[:n], both[n:]
    kernel = rbf_kernel(both)
    samples = patient_samples(patients, bootstraps, seed)
    swaps = paired_swaps(patients, permutations, seed)
    values = {"cosine": _cosines(clean, changed), "norm": np.stack([_norms(clean), _norms(changed)])}
    result: dict[str, Any] = {"n": n, "patients": len(np.unique(patients)), "dimensions": both.shape[1]}
    result["variance_kept"] = kept
    result["cosine"] = _resampled(lambda i: float(values["cosine"][i].mean()), n, samples)
    result["cosine_of_means"] = _resampled(
        lambda i: float(_cosines(clean[i].mean(0)[None], changed[i].mean(0)[None])[0]), n, samples
    )
    result["norm_change"] = _resampled(
        lambda i: float(values["norm"][1][i].mean() / max(values["norm"][0][i].mean(), ROUNDING) - 1), n, samples
    )
    chances = [frechet(np.where(s[:, None], b, a), np.where(s[:, None], a, b)) for s in swaps[:CHANCES]]
    result["frechet"] = _reflected(lambda i: frechet(a[i], b[i]), n, samples)
    result["frechet"] |= {"chance": float(np.mean(chances)), "covariance": "Ledoit-Wolf"}
    result["mmd2"] = _reflected(lambda i: float(mmd2(kernel, i, i + n)), n, samples)
    null = permuted_mmd2(kernel, swaps)
    observed = mmd2(kernel, np.arange(n), np.arange(n) + n)
    result["mmd2"] |= {"p_value": p_value(observed, null), "permutations": permutations, "kernel": "RBF, median width"}
    return result


def frechet(x: Floats, y: Floats) -> float:
    """Squared Frechet distance of two normal distributions fitted to samples [N, D] and [M, D]; Ledoit-Wolf covariances, >= 0."""
    first, second = shrunk_covariance(x), shrunk_covariance(y)
    jitter = max(float(np.trace(first)) * ROUNDING, float(np.finfo(np.float64).tiny))
    root = np.linalg.cholesky(first + jitter * np.eye(len(first)))
    cross = np.linalg.eigvalsh(root.T @ second @ root)  # those of C1 C2
    gap = float(np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2))
    spread = float(np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(cross, 0)).sum())
    return max(0.0, gap + spread)


def shrunk_covariance(x: Floats) -> Floats:
    """Ledoit & Wolf 2004 towards the mean variance times the identity, [D, D]; the arithmetic of scikit-learn's, many times as fast on the
    small samples of a bootstrap."""
    n, size = x.shape
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / n
    mean = float(np.trace(covariance)) / size
    squares = centred**2
    distance = float(np.sum(covariance**2)) - size * mean**2  # |S - mean I|^2
    noise = (float(np.sum(squares.T @ squares)) / n - float(np.sum(covariance**2))) / n
    share = min(noise, distance) / distance if distance > 0 else 0.0
    return np.asarray((1 - share) * covariance + share * mean * np.eye(size))


def rbf_kernel(points: Floats) -> Floats:
    """exp(-d^2 / (2 w^2)) [N, N], w = median distance of different points (1 where they all coincide)."""
    squares = np.sum(points**2, axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * points @ points.T, 0)
    width = float(np.median(distances[np.triu_indices(len(points), 1)]))
    kernel: Floats = np.exp(-distances / (2 * width if width > 0 else 2.0))
    return kernel


def mmd2(kernel: Floats, first: Index, second: Index) -> float:
    """Unbiased squared maximum mean discrepancy of two samples, given as rows of a kernel matrix; may be slightly negative.

    A film that stands twice in a sample (resampling) is not compared with itself.
    """
    within = [_off_diagonal_mean(kernel, rows) for rows in (first, second)]
    return float(within[0] + within[1] - 2 * kernel[np.ix_(first, second)].mean())


def permuted_mmd2(kernel: Floats, swaps: NDArray[np.bool_]) -> Floats:
    """MMD^2 under each swap, float64 [P]. swaps: bool [P, N]; where True, rows i and N + i change places."""
    n = swaps.shape[1]
    first = np.hstack([~swaps, swaps]).astype(np.float64)
    bare = kernel - np.diag(np.diag(kernel))
    xx = np.einsum("pi,pi->p", first @ bare, first)
    yy = np.einsum("pi,pi->p", (1 - first) @ bare, 1 - first)
    xy = np.einsum("pi,pi->p", first @ kernel, 1 - first)
    return np.asarray(xx / (n * (n - 1)) + yy / (n * (n - 1)) - 2 * xy / n**2)


def paired_swaps(patients: NDArray[np.str_], permutations: int, seed: int) -> NDArray[np.bool_]:
    """bool [P, N]: which films change sides, all of a patient together."""
    _, inverse = np.unique(patients, return_inverse=True)
    coins = np.random.default_rng([seed, 1]).random((permutations, int(inverse.max()) + 1)) < 0.5
    return np.asarray(coins[:, inverse])


def independent_test(x: Floats, y: Floats, *, permutations: int = 500, seed: int = 0) -> tuple[float, float]:
    """(MMD^2, p value) of two independent samples [N, D], [M, D]; every row is a unit of its own."""
    kernel = rbf_kernel(np.vstack([x, y]))
    n, rng = len(x), np.random.default_rng([seed, 2])
    observed = mmd2(kernel, np.arange(n), np.arange(n, len(kernel)))
    orders = (rng.permutation(len(kernel)) for _ in range(permutations))
    null = np.array([mmd2(kernel, order[:n], order[n:]) for order in orders])
    return observed, p_value(observed, null)


def p_value(observed: float, null: Floats) -> float:
    """Share of the null at least as large, the observation counted in (Phipson & Smyth 2010): never 0."""
    return float((1 + np.sum(null >= observed - ROUNDING)) / (1 + len(null)))


def reduced(clean: Floats, changed: Floats) -> tuple[Floats, float]:
    """Both samples one above the other on their common principal components, [2N, D <= DIMENSIONS], and the variance share kept."""
    both = np.vstack([clean, changed])
    centred = both - both.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    total = float(np.sum(singular**2))
    kept = axes[:DIMENSIONS]
    share = float(np.sum(singular[:DIMENSIONS] ** 2)) / total if total > 0 else 1.0
    return np.asarray(centred @ kept.T), share


def _off_diagonal_mean(kernel: Floats, rows: Index) -> float:
    block = kernel[np.ix_(rows, rows)]
    other = rows[:, None] != rows[None]
    return float(block[other].mean()) if other.any() else 0.0


def _cosines(a: Floats, b: Floats) -> Floats:
    """1 - cosine of each row, in [0, 2]."""
    return np.asarray(1 - np.sum(a * b, axis=1) / np.maximum(_norms(a) * _norms(b), ROUNDING))


def _norms(a: Floats) -> Floats:
    return np.asarray(np.linalg.norm(a, axis=1))


def _resampled(statistic: Callable[[Index], float], n: int, samples: list[Index]) -> Figure:
    drawn = [statistic(sample) for sample in samples]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"value": statistic(np.arange(n)), "ci": [float(low), float(high)]}


def _reflected(statistic: Callable[[Index], float], n: int, samples: list[Index]) -> Figure:
    """Basic bootstrap interval 2 v - q (Davison & Hinkley 1997), floored at 0."""
    value = statistic(np.arange(n))
    low, high = np.quantile([statistic(sample) for sample in samples], (0.025, 0.975))
    return {"value": value, "ci": [max(0.0, 2 * value - float(high)), max(0.0, 2 * value - float(low))]}
