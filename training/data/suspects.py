"""How well one number about a film's making tells its class: the shortcuts that a network could take.

For each number and class the AUROC of the number alone, class against the rest, with a 95 % interval from a bootstrap over patients. A
number far from 0.5 in either direction is a shortcut; one that tells the class within a single source too is worse than one that
merely tells the sources apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SUSPICIOUS, STRONG = 0.70, 0.85  # of the nearer end of the interval, max(AUROC, 1 - AUROC)
BOOTSTRAPS = 200
FEWEST = 5
"""Films of the class and of the rest that a figure needs."""


@dataclass(frozen=True)
class Suspect:
    """What a number alone knows about a class. scope: all films, or one source. direction: +1 where larger means the class.

    auroc: in the direction that separates, 0.5 to 1; ci: 95 %, of the same; n: films with the number; positives: of the class.
    """

    fact: str
    target: str
    scope: str
    auroc: float
    ci: tuple[float, float]
    direction: int
    n: int
    positives: int

    @property
    def mark(self) -> str:
        """`strong`, `suspicious` or nothing, by the lower end of the interval."""
        return "strong" if self.ci[0] > STRONG else "suspicious" if self.ci[0] > SUSPICIOUS else ""


def find_suspects(
    facts: Mapping[str, Floats],
    targets: Floats,
    outputs: Sequence[str],
    *,
    patients: Sequence[str],
    sources: Sequence[str],
    seed: int = 0,
) -> list[Suspect]:
    """Every number against every class, over all films and within each source that has both; strongest first.

    Args:
        facts: name -> float64 [N], nan where there is none.
        targets: float [N, K], 1, 0 or nan.
        patients, sources: of each film.
    """
    folders = np.array(sources)
    scopes = {"all": np.ones(len(folders), dtype=np.bool_)}
    scopes |= {name: folders == name for name in sorted(set(sources))} if len(set(sources)) > 1 else {}
    _, patient = np.unique(np.array(patients), return_inverse=True)
    found = []
    for scope, chosen in scopes.items():
        weights = _bootstraps(patient[chosen], seed)
        for k, target in enumerate(outputs):
            for fact, values in facts.items():
                one = _suspect(values[chosen], targets[chosen, k], weights)
                if one is not None:
                    auroc, ci, direction, n, positives = one
                    found.append(Suspect(fact, target, scope, auroc, ci, direction, n, positives))
    return sorted(found, key=lambda s: (-s.ci[0], -s.auroc, s.fact))


def rate_of_category(categories: Sequence[str], target: Floats) -> Floats:
    """float64 [N]: the share of films of the class in each film's category, so that a word can be ranked like a number.

    nan where the category is not known (""). Meant for few categories with many films each: the shares are of these films themselves.
    """
    rates = np.full(len(categories), np.nan)
    words, known = np.array(categories), np.isfinite(target)
    for word in set(categories) - {""}:
        members = words == word
        if (members & known).any():
            rates[members] = target[members & known].mean()
    return rates


def auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """float64 [R] of R weightings: P(score of a positive > of a negative), ties half.

    Args:
        scores: float64 [N]; positive: bool [N]; weights: float64 [R, N], how often each film counts.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    ordered, hits = weights[:, order], positive[order]
    above = np.add.reduceat(ordered * hits, starts, axis=1)
    below = np.add.reduceat(ordered * ~hits, starts, axis=1)
    smaller = np.cumsum(below, axis=1) - below
    pairs = above.sum(1) * below.sum(1)
    wins = (above * (smaller + below / 2)).sum(1)
    return np.asarray(np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan), dtype=np.float64)


def _suspect(
    values: Floats, target: Floats, weights: Floats
) -> tuple[float, tuple[float, float], int, int, int] | None:
    usable = np.isfinite(values) & np.isfinite(target)
    positive = target[usable] == 1
    n, positives = int(usable.sum()), int(positive.sum())
    if min(positives, n - positives) < FEWEST or np.ptp(values[usable]) == 0:
        return None
    drawn = auroc(values[usable], positive, weights[:, usable])
    value, rest = float(drawn[0]), drawn[1:][np.isfinite(drawn[1:])]
    low, high = np.quantile(rest, (0.025, 0.975)) if len(rest) else (0.0, 1.0)
    if value >= 0.5:
        return value, (float(low), float(high)), 1, n, positives
    return 1 - value, (float(1 - high), float(1 - low)), -1, n, positives


def _bootstraps(patient: NDArray[np.intp], seed: int) -> Floats:
    """float64 [1 + R, N]: all films once, then R draws of patients with replacement."""
    rng = np.random.default_rng(seed)
    names, index = np.unique(patient, return_inverse=True)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=BOOTSTRAPS)
    return np.vstack([np.ones(len(patient)), draws[:, index]]).astype(np.float64)
