"""Split-conformal prediction sets: the classes that cannot be ruled out, with a coverage that holds for any network.

Class-conditional (Mondrian) split conformal prediction (Vovk, Gammerman & Shafer 2005) with the score of least ambiguous sets (LAC,
Sadinle, Lei & Wasserman 2019), 1 - p of the true class. A set holds class k where 1 - p_k is at most the class's quantile, that is
where its margin reaches a threshold, since p rises with the margin. If the n calibration films of class k and a new film of class k
are exchangeable, the set of the new film holds k with a probability of at least the coverage, and, without ties, of at most the
coverage + 1 / (n + 1). Films of a new site, or changed ones, are not exchangeable: there the coverage is a thing to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.judging import weighted
from training.judging.figures import Replicated
from training.judging.weighted import Floats

ALWAYS = -1e6  # a threshold below any margin: the class is in every set


def lac_threshold(margins: Floats, coverage: float) -> float:
    """The margin from which a class is in the set.

    Args:
        margins: float64 [n], the class's own margins on calibration films that show it.
        coverage: wanted share of films whose set holds their class, in (0, 1).

    Returns:
        The ceil((n + 1) * coverage)-th largest of them; `ALWAYS` where n is too small for the coverage to be had.
    """
    rank = math.ceil((len(margins) + 1) * coverage - 1e-9)
    return ALWAYS if rank > len(margins) else float(np.sort(margins)[len(margins) - rank])


def set_figures(held: NDArray[np.bool_], truth: NDArray[np.intp], classes: Sequence[str]) -> Replicated:
    """Figures of prediction sets bool [N, C] for films of the classes `truth` [N], as `overall|<figure>` and `<class>|coverage`.

    coverage: share of films whose set holds their class. mean_set_size. singleton_share, empty_share: sets of one class, of none.
    """
    covered = held[np.arange(len(truth)), truth].astype(np.float64)
    size = held.sum(axis=1).astype(np.float64)
    values = {
        "coverage": covered,
        "mean_set_size": size,
        "singleton_share": (size == 1).astype(np.float64),
        "empty_share": (size == 0).astype(np.float64),
    }
    own = {name: (truth == k).astype(np.float64) for k, name in enumerate(classes)}

    def figures(weights: Floats) -> dict[str, Floats]:
        found = {f"overall|{name}": weighted.mean(weights, value) for name, value in values.items()}
        for name, films in own.items():
            found[f"{name}|coverage"] = weighted.divided(weights @ (films * covered), weights @ films)
        return found

    return figures


def named_sets(held: NDArray[np.bool_], truth: NDArray[np.intp], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many films of each class got which set, sets written as `a+b` and `none`."""
    found: dict[str, dict[str, int]] = {name: {} for name in classes}
    for row, k in zip(held, truth, strict=True):
        name = "+".join(c for c, inside in zip(classes, row, strict=True) if inside) or "none"
        found[classes[k]][name] = found[classes[k]].get(name, 0) + 1
    return found
