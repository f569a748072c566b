"""Grad-CAM and Grad-CAM++ in closed form, from the plain pass alone, and what all methods share.

With g the gradient of the target score by the pooled features (`head`):

- Grad-CAM (Selvaraju et al. 2017): map = ReLU(sum over c of g_c A_c), up to a factor that the normalisation removes;
- Grad-CAM++ (Chattopadhyay et al. 2018, eq. 10 to 19, with y taken as the exponent of the score, so that the second and third
  derivatives are powers of the first): weight_c = ReLU(g_c) / (2 + p_c g_c), up to the same factor. See `plus_plus_weights`.

The target is the uncalibrated logit: a calibration would only scale it. For the negative class of a binary bundle it is minus
the logit. A map without a positive part is all zeros and says so; it is never stretched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from app.domain import ActivationMap, NetworkOutput
from app.explain.head import Floats, Head, pooled

Method = Literal["gradcam", "gradcam++"]  # from the plain pass
PassMethod = Literal["smoothgradcam++", "scorecam"]  # from passes over changed copies of the film
METHOD_NAMES: Mapping[str, str] = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "smoothgradcam++": "SmoothGrad-CAM++",
    "scorecam": "Score-CAM",
}

# Grad-CAM++ divides by 2 + p_c g_c. For features >= 0 and g_c > 0 that is at least 2. Signed features (SiLU, LayerNorm) can bring it
# to zero or below, where one channel would swallow the map or change its sign; it is held at this floor, twice the usual weight.
PLUS_PLUS_FLOOR = 1.0

# A positive part smaller than this share of the summed terms is the rounding of float32 features, not evidence.
ROUNDING = 1e-7


class Explainer(Protocol):
    """A method on one film: the changed copies that it wants the network to see, and the maps that follow from the answers."""

    @property
    def passes(self) -> int:
        """How many copies; 0 where the plain pass is enough."""

    def tensor(self, index: int) -> NDArray[np.float32]:
        """The copy of a pass, float32 [C, S, S]; the same at every call."""

    def map(self, outputs: Sequence[NetworkOutput], *, target: str, logit_index: int, negated: bool) -> ActivationMap:
        """The explanation of one logit (`logit_of`), from the network's answers to all copies in their order."""


def activation_map(
    features: NDArray[np.float32], head: Head, *, target: str, logit_index: int, negated: bool, method: Method
) -> ActivationMap:
    """The explanation of one logit on the feature grid.

    Args:
        features: [C, h, w], the network's second output for the film.
        target: name of the class, for the reader of the map.
        logit_index, negated: see `logit_of`.

    Returns:
        values float32 [h, w] in [0, 1], maximum exactly 1; all zeros with `no_positive_evidence` if no position speaks for the target.

    Raises:
        ConflictError: `explanation_unavailable` if the bundle has no head.
        ValueError: features that are not finite (the decision refuses such a film first).
    """
    if not np.isfinite(features).all():
        raise ValueError("features that are not finite cannot be explained")
    gradient = head.gradient(pooled(features), logit_index)
    if negated:
        gradient = -gradient
    weights = gradient if method == "gradcam" else plus_plus_weights(gradient[None], pooled(features))
    return weighted_map(weights, features, target=target, method=method, negated=negated)


class GradCam:
    """Grad-CAM or Grad-CAM++ of one film: no further pass.

    Args:
        features: float32 [C, h, w], the network's features of the film.
        head: of the bundle.
    """

    def __init__(self, features: NDArray[np.float32], head: Head, method: Method) -> None:
        self._features = features
        self._head = head
        self._method: Method = method

    @property
    def passes(self) -> int:
        return 0

    def tensor(self, index: int) -> NDArray[np.float32]:
        raise IndexError(f"there is no copy {index}: the plain pass is enough")

    def map(self, outputs: Sequence[NetworkOutput], *, target: str, logit_index: int, negated: bool) -> ActivationMap:
        """`activation_map`. outputs: none."""
        del outputs
        return activation_map(
            self._features,
            self._head,
            target=target,
            logit_index=logit_index,
            negated=negated,
            method=self._method,
        )


def weighted_map(
    weights: Floats,
    features: NDArray[np.float32] | Floats,
    *,
    target: str,
    method: Method | PassMethod,
    negated: bool,
) -> ActivationMap:
    """ReLU(sum over c of weights_c features_c) over its maximum. weights: [C]; features: [C, h, w]."""
    channels = features.reshape(features.shape[0], -1).astype(np.float64)
    evidence = np.maximum(weights @ channels, 0.0)
    peak = float(evidence.max())
    terms = float((np.abs(weights) @ np.abs(channels)).max())
    if peak <= ROUNDING * terms:
        values = np.zeros(features.shape[1:], dtype=np.float32)
    else:
        values = (evidence / peak).astype(np.float32).reshape(features.shape[1:])
    return ActivationMap(
        target=target, method=method, values=values, negated=negated, no_positive_evidence=not values.any()
    )


def plus_plus_weights(gradients: Floats, pooled_features: Floats) -> Floats:
    """Channel weights of Grad-CAM++, [C], times h w; of SmoothGrad-CAM++ where there is more than one gradient.

    With the gradient d = g / (h w) constant over a channel, eq. 19 reads alpha = d^2 / (2 d^2 + sum(A) d^3) at every position, and the
    weight is sum over positions of alpha ReLU(d) = ReLU(g) / (2 + p g), since sum(A) d = p g. Of several gradients, d, d^2 and d^3
    are means over them: ReLU(mean g) / (2 + p mean(g^3) / mean(g^2)). The denominator is floored.

    Args:
        gradients: [n, C]. pooled_features: [C].
    """
    first, second, third = (np.mean(gradients**power, axis=0) for power in (1, 2, 3))
    slope = np.divide(third, second, out=np.zeros_like(third), where=second > 0)
    weights: Floats = np.maximum(first, 0.0) / np.maximum(2.0 + pooled_features * slope, PLUS_PLUS_FLOOR)
    return weights
