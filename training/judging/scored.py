"""Films with their truth and the network's logits: what every figure is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Calibration
from app.decision import margins, probabilities, scaled_logits
from app.domain import Task
from training.judging.figures import Judged

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A set of N films, K logits each.

    outputs: the class of each logit (binary: the positive class alone). targets: float64 [N, K], 1, 0 or nan (unknown); logits: float64
    [N, K]; patients, sources, paths: str [N] (patients of different sources never share a name; "" is replaced by the path).
    """

    name: str
    task: Task
    outputs: tuple[str, ...]
    targets: Floats
    logits: Floats
    patients: NDArray[np.str_]
    sources: NDArray[np.str_]
    paths: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.logits)

    def margins(self, calibration: Calibration) -> Floats:
        """float64 [N, K] by the service's own arithmetic."""
        return margins(self.task, scaled_logits(self.logits, calibration))

    def probability(self, calibration: Calibration) -> Floats:
        """Shown probabilities, float64 [N, K], by the service's own arithmetic."""
        return probabilities(self.task, self.margins(calibration), calibration)

    def judged(self, calibration: Calibration, output: int = 0) -> Judged:
        """One class against the rest: the films whose truth for it is known."""
        known = np.isfinite(self.targets[:, output])
        return Judged(
            self.targets[known, output].astype(np.int64),
            self.margins(calibration)[known, output],
            self.probability(calibration)[known, output],
            self.patients[known],
        )

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.intp], name: str | None = None) -> Scored:
        """Some of the films."""
        arrays: dict[str, Any] = {
            f: getattr(self, f)[chosen] for f in ("targets", "logits", "patients", "sources", "paths")
        }
        return replace(self, name=name or self.name, **arrays)


def mix(sets: Sequence[Scored], name: str = "mix") -> Scored:
    """All sets in one, films of the same patient kept recognisable."""
    first = sets[0]
    arrays: dict[str, Any] = {
        f: np.concatenate([getattr(s, f) for s in sets]) for f in ("targets", "logits", "patients", "sources", "paths")
    }
    return replace(first, name=name, **arrays)
