"""Which films a check looks at where looking at all of them would take hours: chosen by a seeded hash of the path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.cache import Pixels
from training.judging.scored import Scored

FEWEST = 20  # films of each class that a smaller sample keeps, where there are as many


@dataclass(frozen=True)
class Limits:
    """The most films of each check, and the resamples of its intervals.

    Two quiet cores read some 30 films a second by a ResNet-18 at 224 px, so that the suite (45 settings) takes about three minutes.
    """

    suite: int = 90
    tta: int = 400
    edges: int = 240
    train: int = 4000
    gallery: int = 8
    explained: int = 120  # over all classes
    bootstraps: int = 200


def spread(scored: Scored, most: int, seed: int) -> NDArray[np.intp]:
    """Rows of at most `most` films (more only to keep `FEWEST` of each class), classes in their proportions; rising."""
    n = len(scored)
    if n <= most:
        return np.arange(n)
    order = np.array(sorted(range(n), key=lambda i: _hash(str(scored.paths[i]), seed)), dtype=np.intp)
    if scored.task == "multilabel":
        rare = [order[scored.targets[order, k] == 1][:FEWEST] for k in range(scored.targets.shape[1])]
        return np.unique(np.concatenate([order[:most], *rare]))
    truth = np.nan_to_num(scored.targets) @ np.arange(1, scored.targets.shape[1] + 1)
    chosen = [
        own[: max(FEWEST, round(most * len(own) / n))]
        for value in np.unique(truth)
        for own in [order[truth[order] == value]]
    ]
    return np.sort(np.concatenate(chosen))


def some(pixels: Pixels, rows: NDArray[np.intp]) -> Pixels:
    """Some films of a set, first versions alone, in memory."""
    return Pixels(
        films=tuple(pixels.films[i] for i in rows),
        images=np.array(pixels.images[:, :1][rows]),
        sha256=tuple(pixels.sha256[i] for i in rows),
        statistics=tuple(pixels.statistics[i] for i in rows),
    )


def _hash(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{path}".encode()).digest()
