"""Scored films made from random numbers, for figures, calibrators and operating points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.domain import Task
from training.judging.scored import Scored


def scored(
    logits: ArrayLike,
    targets: ArrayLike,
    outputs: tuple[str, ...] = ("pneumonia",),
    *,
    task: Task = "binary",
    name: str = "clean",
    films_per_patient: int = 1,
) -> Scored:
    """Films of one source, `films_per_patient` of each patient. logits, targets: [N, K]."""
    values: NDArray[Any] = np.asarray(logits, dtype=np.float64)
    n = len(values)
    return Scored(
        name=name,
        task=task,
        outputs=outputs,
        targets=np.asarray(targets, dtype=np.float64).reshape(n, len(outputs)),
        logits=values.reshape(n, len(outputs)),
        patients=(np.arange(n) // films_per_patient).astype(str),
        sources=np.array(["f"] * n),
        paths=np.array([f"{i:05}" for i in range(n)]),
    )


def softmax_films(n: int, seed: int, temperatures: Sequence[float] = (1.0, 1.0, 1.0), spread: float = 2.0) -> Scored:
    """Three classes whose true probabilities are the softmax of logits / temperatures."""
    rng = np.random.default_rng(seed)
    scaled = rng.normal(0, spread, (n, 3))
    p = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    truth = (rng.random(n)[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    return scored(
        scaled * np.asarray(temperatures), np.eye(3)[truth], ("normal", "pneumonia", "tuberculosis"), task="multiclass"
    )
