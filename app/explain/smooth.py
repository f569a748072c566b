"""SmoothGrad-CAM++ (Omeiza et al. 2019): Grad-CAM++ over noisy copies of the film.

The copies are x + e with Gaussian e (Smilkov et al. 2017, SmoothGrad); the first, second and third derivatives in the weights of
Grad-CAM++ are means over them. As published, with four points decided here:

- The factor exp(S) that all derivatives of y = exp(S) share is left out, as in Grad-CAM++, where it cancels: every copy counts alike,
  instead of the one with the highest score outvoting the others.
- The numerator of alpha is the second derivative, as in Grad-CAM++ (the paper prints the first).
- A is the mean over the copies. The paper leaves open whether it is the plain film's; with a linear head the derivatives do not depend
  on the film at all, and with the plain film's A the map would be Grad-CAM++'s exactly.
- The noise has a standard deviation of a tenth of the tensor's range, the lower end of what SmoothGrad recommends, and is the same in
  all channels: a copy of a gray film stays gray.

The noise is seeded by the film's SHA-256 and the number of the copy: the same film has the same map, whatever was asked before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.domain import ActivationMap, NetworkOutput
from app.explain.head import Floats, Head, pooled
from app.explain.maps import plus_plus_weights, weighted_map

SAMPLES: Final = 16
NOISE: Final = 0.10  # standard deviation, share of the tensor's range


class SmoothGradCam:
    """The noisy copies of one film and the maps that follow from them.

    Args:
        tensor: float32 [C, S, S], the film as the network sees it.
        sha256: hex digest of the film's bytes; seeds the noise.
        head: of the bundle.
    """

    def __init__(self, tensor: NDArray[np.float32], sha256: str, head: Head) -> None:
        self._tensor = tensor
        self._seed = int(sha256, 16)
        self._head = head

    @property
    def passes(self) -> int:
        return SAMPLES

    def tensor(self, index: int) -> NDArray[np.float32]:
        """Copy number `index`, float32 [C, S, S]."""
        generator = np.random.default_rng([self._seed, index])
        noise = generator.standard_normal(self._tensor.shape[1:], dtype=np.float32)
        spread = np.ptp(self._tensor, axis=(1, 2)) * np.float32(NOISE)
        return np.asarray(self._tensor + spread[:, None, None] * noise, dtype=np.float32)

    def map(self, outputs: Sequence[NetworkOutput], *, target: str, logit_index: int, negated: bool) -> ActivationMap:
        """Weights from the mean derivatives, map from the mean features.

        Raises:
            ConflictError: `explanation_unavailable` without a head.
        """
        gradients = np.stack([self._head.gradient(pooled(output.features), logit_index) for output in outputs])
        if negated:
            gradients = -gradients
        features: Floats = np.stack([output.features for output in outputs]).mean(axis=0, dtype=np.float64)
        weights = plus_plus_weights(gradients, features.mean(axis=(1, 2)))
        return weighted_map(weights, features, target=target, method="smoothgradcam++", negated=negated)
