"""Score-CAM (Wang et al. 2020): a channel counts by the score that the network gives to the film seen through it. No gradient.

For each of the channels with the highest mean activation, the film is multiplied by that channel's map, up-sampled to the input
(bilinear) and brought to [0, 1] by its own minimum and maximum. As published (algorithm 1), with these points decided here:

- The score S_k is the uncalibrated logit of the target; the weights are the softmax of S_k over the channels. The score S_b of the
  empty input, which the paper subtracts, cancels in it.
- The softmax makes every weight positive, so that a map would always claim evidence. If no channel raises the score above S_b (no
  "increase of confidence", definition 2), there is none, and the map is all zeros.
- The product is taken on the network's tensor, as by the authors: masked is what has the value 0, and the empty input is 0 everywhere.
- 32 channels instead of all (512 in ResNet-18). A channel without any contrast masks nothing and is not among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from app.domain import ActivationMap, NetworkOutput
from app.explain.head import Floats, pooled
from app.explain.maps import weighted_map

CHANNELS: Final = 32
CONTRAST: Final = 1e-6  # a channel that varies by less than this share of its largest value is the same everywhere


class ScoreCam:
    """The masked copies of one film, the empty input before them, and the maps that follow.

    Args:
        tensor: float32 [C, S, S], the film as the network sees it.
        features: float32 [K, h, w], the network's features of it.
    """

    def __init__(self, tensor: NDArray[np.float32], features: NDArray[np.float32]) -> None:
        self._tensor = tensor
        self._features = features[_strongest(features)]

    @property
    def passes(self) -> int:
        return 1 + len(self._features)

    def tensor(self, index: int) -> NDArray[np.float32]:
        """0: the empty input; from 1 on: the film through its strongest channels, strongest first."""
        if index == 0:
            return np.zeros_like(self._tensor)
        size = self._tensor.shape[1:]
        shown = np.asarray(
            cv2.resize(self._features[index - 1], (size[1], size[0]), interpolation=cv2.INTER_LINEAR), dtype=np.float32
        )
        low, high = shown.min(), shown.max()
        return np.asarray(self._tensor * ((shown - low) / (high - low)), dtype=np.float32)

    def map(self, outputs: Sequence[NetworkOutput], *, target: str, logit_index: int, negated: bool) -> ActivationMap:
        """The channels' sum, weighted by the softmax of their scores; all zeros where none raises the score."""
        scores = np.array([output.logits[logit_index] for output in outputs], dtype=np.float64)
        if negated:
            scores = -scores
        empty, masked = scores[0], scores[1:]
        weights = _softmax(masked) if (masked > empty).any() else np.zeros_like(masked)
        if not weights.any():
            values = np.zeros(self._features.shape[1:], dtype=np.float32)
            return ActivationMap(target, "scorecam", values, negated, no_positive_evidence=True)
        return weighted_map(weights, self._features, target=target, method="scorecam", negated=negated)


def _strongest(features: NDArray[np.float32]) -> NDArray[np.intp]:
    """Indices of the channels with the highest mean, among those that are not the same everywhere; highest first."""
    varied = np.ptp(features, axis=(1, 2)) > CONTRAST * np.abs(features).max(axis=(1, 2))
    order = np.argsort(-pooled(features), kind="stable")
    chosen: NDArray[np.intp] = order[varied[order]][:CHANNELS]
    return chosen


def _softmax(values: Floats) -> Floats:
    powers: Floats = np.exp(values - values.max())
    shares: Floats = powers / powers.sum()
    return shares
