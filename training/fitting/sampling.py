"""Which films an epoch shows, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.domain import Task
from training.fitting.spec import TrainingPart

Indices = NDArray[np.int64]


def epoch_order(
    targets: NDArray[np.float32], sources: Sequence[str], part: TrainingPart, task: Task, rng: np.random.Generator
) -> Indices:
    """Indices of films in the order of one epoch.

    Every film once, unless `oversample_to` or `balance_sources` say otherwise. Classes are drawn as one: negative and positive
    (binary), classes (multiclass), or all films together (multilabel, where each label is then topped up, rarest first).

    Args:
        targets: float32 [N, K], as `training.data.targets` makes them.
        sources: of each film; only `balance_sources` asks.
        rng: the only source of chance.

    Returns:
        int64 [M]; M = N without oversampling. A class or label without any film cannot be topped up.
    """
    if not part.oversample_to and not part.balance_sources:
        return rng.permutation(len(targets))
    names = np.array(sources) if part.balance_sources else np.full(len(targets), "")
    chosen = []
    for films in _strata(targets, task):
        least = 0 if task == "multilabel" else part.oversample_to
        chosen.append(_drawn(films, max(len(films), least), names, rng))
    if task == "multilabel":
        chosen += _topped_up(chosen[0], targets, part.oversample_to, names, rng)
    return rng.permutation(np.concatenate(chosen))


def _strata(targets: NDArray[np.float32], task: Task) -> list[Indices]:
    """The films of each class that has any."""
    if task == "multilabel":
        return [np.arange(len(targets))]
    index = targets.argmax(axis=1) if task == "multiclass" else targets[:, 0].astype(np.int64)
    return [np.flatnonzero(index == value) for value in np.unique(index)]


def _topped_up(
    shown: Indices, targets: NDArray[np.float32], least: int, names: NDArray[np.str_], rng: np.random.Generator
) -> list[Indices]:
    """Films to add until every label is shown `least` times; what is added for one label counts for the others too."""
    positive = targets == 1
    counts = positive[shown].sum(axis=0)
    added = []
    for label in np.argsort(counts, kind="stable"):
        films = np.flatnonzero(positive[:, label])
        missing = least - int(counts[label])
        if missing > 0 and len(films):
            added.append(_drawn(films, missing, names, rng))
            counts = counts + positive[added[-1]].sum(axis=0)
    return added


def _drawn(films: Indices, count: int, names: NDArray[np.str_], rng: np.random.Generator) -> Indices:
    """`count` films: every source equally often (give or take one), within a source every film equally often (give or take one)."""
    groups = [films[names[films] == name] for name in rng.permutation(np.unique(names[films]))]
    shares = [count // len(groups) + (i < count % len(groups)) for i in range(len(groups))]
    return np.concatenate([_cycled(group, share, rng) for group, share in zip(groups, shares, strict=True)])


def _cycled(films: Indices, count: int, rng: np.random.Generator) -> Indices:
    """Shuffled rounds through the films, the last one cut short."""
    rounds = -(-count // len(films))
    return np.concatenate([rng.permutation(films) for _ in range(rounds)] or [films[:0]])[:count]
