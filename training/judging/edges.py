"""Does the network read the edge of a film? Its corners, or its frame, are exchanged for those of other films.

Every film gets the edge of a donor: once of a film of its own side (the class shown or not), once of the other side. Both make an
unusual picture, so what a strange edge alone does cancels out; what is left, AUROC with own donors less AUROC with others', is what
the network reads about the class at the edge. A bright tag in a corner of one class shows here even where only some films carry it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.decision import margins
from training.judging.answers import Index, intervals
from training.judging.figures import auroc
from training.judging.probes import BORDER, CORNER, frame_mask
from training.judging.reading import Read
from training.judging.scored import Scored

Gray = NDArray[np.uint8]
Floats = NDArray[np.float64]


def edge_masks(size: int) -> dict[str, NDArray[np.bool_]]:
    """`corners`: four squares of 15 % of the side; `border`: the outer 10 %. bool [S, S]."""
    side = max(1, round(CORNER * size))
    corner = np.zeros((size, size), dtype=np.bool_)
    for rows in (slice(0, side), slice(size - side, size)):
        for columns in (slice(0, side), slice(size - side, size)):
            corner[rows, columns] = True
    return {"corners": corner, "border": frame_mask(size, BORDER)}


def edge_reading(films: Gray, scored: Scored, read: Read, *, bootstraps: int = 200, seed: int = 0) -> dict[str, Any]:
    """Per edge and class: AUROC as it is, with edges of the own side, of the other side, and `read`, own less other.

    Args:
        films: uint8 [N, S, S], in the order of `scored`, whose logits are those of the plain films.

    Returns:
        edge -> class -> {plain, own, other, read}, each {value, ci}; classes without two films on either side are left out.
    """
    result: dict[str, Any] = {}
    for edge, mask in edge_masks(films.shape[1]).items():
        result[edge] = {}
        for k, name in enumerate(scored.outputs):
            rows = np.flatnonzero(np.isfinite(scored.targets[:, k]))
            truth = scored.targets[rows, k].astype(np.int64)
            if min((truth == 1).sum(), (truth == 0).sum()) < 2:
                continue
            logits = {
                which: read(exchanged(films[rows], truth, mask, other=which == "other", seed=seed)).logits
                for which in ("own", "other")
            }
            result[edge][name] = _figures(scored.take(rows), truth, logits, k, bootstraps=bootstraps, seed=seed)
    return result


def exchanged(films: Gray, truth: NDArray[np.int64], mask: NDArray[np.bool_], *, other: bool, seed: int) -> Gray:
    """uint8 [N, S, S]: each film with a donor's edge. truth: int [N], 0 or 1; donors: seeded, never the film itself."""
    rng = np.random.default_rng([seed, int(other)])
    donors = np.empty(len(films), dtype=np.intp)
    for side in (0, 1):
        own, others = np.flatnonzero(truth == side), np.flatnonzero(truth != side)
        if other:
            donors[own] = rng.choice(others, size=len(own))
        else:
            order = rng.permutation(own)
            donors[order] = np.roll(order, 1)
    return np.where(mask, films[donors], films)


def _figures(
    scored: Scored, truth: NDArray[np.int64], logits: dict[str, Floats], k: int, *, bootstraps: int, seed: int
) -> dict[str, Any]:
    shown = {name: margins(scored.task, values)[:, k] for name, values in {"plain": scored.logits, **logits}.items()}

    def figures(chosen: Index) -> dict[str, float]:
        found = {name: auroc(truth[chosen], values[chosen]) for name, values in shown.items()}
        return found | {"read": found["own"] - found["other"]}

    return intervals(figures, scored.patients, bootstraps=bootstraps, seed=seed)
