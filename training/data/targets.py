"""What the network should say about each film."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.errors import ConfigurationError
from training.data.films import Film
from training.data.spec import DataPart


def targets(films: Sequence[Film], part: DataPart) -> NDArray[np.float32]:
    """float32 [N, K], K = len(part.outputs): 1 where the film shows the class of the logit, 0 where not, nan where unknown (multilabel).

    Binary: K = 1, the positive class. Multiclass: one 1 in each row. Raises ConfigurationError for a label that is no class.
    """
    if part.task == "multilabel":
        found = [dict(film.findings) for film in films]
        rows = [[_known(f.get(name, -1)) for name in part.outputs] for f in found]
        return np.array(rows, dtype=np.float32).reshape(len(films), len(part.outputs))
    strange = {film.label for film in films} - set(part.classes)
    if strange:
        raise ConfigurationError("unknown_label", f"labels {sorted(strange)} are not classes of the recipe")
    index = np.array([part.classes.index(film.label) for film in films], dtype=np.int64)
    if part.task == "binary":
        return np.asarray(index == 1, dtype=np.float32)[:, None]
    return np.asarray(np.eye(len(part.classes), dtype=np.float32)[index]).reshape(len(films), len(part.classes))


def _known(value: int) -> float:
    return float(value) if value in {0, 1} else float("nan")
