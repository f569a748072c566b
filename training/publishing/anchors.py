"""Published figures of the earlier designs that ours stand beside (FEATURES S0 and S2 of the project's inventory).

None of them states an interval, and S0's ECE compares the probability of pneumonia with accuracy, so it is no calibration error
(it exceeds the square root of its own Brier score's bound on the validation set): it is shown, and marked.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Anchor:
    """One design's figures on the official test split. points: name -> (sensitivity, specificity)."""

    name: str
    what: str
    auroc: float
    auprc: float
    brier: str
    ece: str
    points: dict[str, tuple[float, float]]


ANCHORS = (
    Anchor(
        name="S0",
        what="DenseNet-121, pretrained; temperature scaling",
        auroc=0.9605,
        auprc=0.965,
        brier="0.1469 before, 0.1432 after",
        ece="0.3384 before, 0.3325 after (wrongly defined)",
        points={"sensitivity-90": (0.90, 0.91)},
    ),
    Anchor(
        name="S2",
        what="ResNet-18; its split was not grouped by patient",
        auroc=0.979,
        auprc=0.985,
        brier="not given",
        ece="not given",
        points={"screening": (0.997, 0.564), "rule-in": (0.949, 0.902)},
    ),
)
