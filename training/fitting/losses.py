"""What is made small: cross-entropies, weighted by class, smoothed, focused (Lin et al. 2017), with unknown labels left out.

A loss is a sum over films and logits divided by a denominator that depends on the targets alone. A process that holds a part of
a batch can therefore divide its sum by the denominator of the whole batch, and the parts add up to the loss of one process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from app.domain import Task
from training.fitting.spec import LossPart


@dataclass(frozen=True)
class Loss:
    """part: the recipe's choice. softmax: one class per film (multiclass); else each logit is a question by itself.

    weights: float32 [K] on the device of the fit, pos_weight of each logit (sigmoid) or weight of each class (softmax).
    """

    part: LossPart
    softmax: bool
    weights: Tensor

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch: float32 scalar. logits: [B, K]; target: float32 [B, K] in [0, 1], nan where unknown."""
        return self.total(logits, target) / self.denominator(target)

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sum over films and logits, in float32."""
        logits = logits.float()
        weighted = self._softmax if self.softmax else self._sigmoid
        return weighted(logits, target, self.weights)

    def denominator(self, target: Tensor) -> Tensor:
        """Sigmoid: the number of known labels. Softmax: the sum of the weights of the films' classes, as torch's cross-entropy."""
        if not self.softmax:
            return target.isfinite().sum().clamp_min(1).float()
        return (target * self.weights).sum()

    @property
    def _gamma(self) -> float:
        return self.part.gamma if self.part.kind == "focal" else 0.0

    @property
    def _alpha(self) -> float | None:
        return self.part.alpha if self.part.kind == "focal" else None

    def _sigmoid(self, logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Per logit: y * w * (1 - p)^gamma * -log p + (1 - y) * p^gamma * -log(1 - p); alpha replaces w by alpha | 1 - alpha.

        Smoothing moves every known y towards 0.5: y (1 - s) + s / 2.
        """
        known = target.isfinite()
        y = torch.where(known, target, 0.0)
        y = y * (1 - self.part.label_smoothing) + 0.5 * self.part.label_smoothing
        if self._gamma == 0 and self._alpha is None:
            terms = F.binary_cross_entropy_with_logits(logits, y, pos_weight=weights, reduction="none")
            return torch.where(known, terms, 0.0).sum()
        log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
        positive = -((self._gamma * log_q).exp()) * log_p
        negative = -((self._gamma * log_p).exp()) * log_q
        if self._alpha is not None:
            positive, negative = self._alpha * positive, (1 - self._alpha) * negative
        else:
            positive = weights * positive
        terms = y * positive + (1 - y) * negative
        return torch.where(known, terms, 0.0).sum()

    def _softmax(self, logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Per film: - sum over k of w_k y_k (1 - p_k)^gamma log p_k, times alpha, one factor for all classes.

        Smoothing: y (1 - s) + s / K.
        """
        y = target * (1 - self.part.label_smoothing) + self.part.label_smoothing / target.shape[1]
        log_p = F.log_softmax(logits, dim=1)
        terms = -y * log_p
        if self._gamma > 0:
            terms = (
                terms * (-log_p.expm1()).clamp_min(1e-12) ** self._gamma
            )  # the clamp keeps the gradient finite at p = 1
        return (terms * weights).sum() * (1.0 if self._alpha is None else self._alpha)


def build_loss(part: LossPart, task: Task, shown: NDArray[np.float32], device: torch.device) -> Loss:
    """The loss of a recipe for the labels that an epoch shows.

    shown: float32 [N, K], 1, 0 or nan: the targets with every film as often as an epoch draws it, so that oversampling and class
    weights do not correct the same imbalance twice.
    """
    softmax = task == "multiclass"
    weights = np.ones(shown.shape[1])
    weighs_itself = part.kind == "focal" and part.alpha is not None and not softmax
    if part.class_weights == "balanced" and not weighs_itself:
        positives = np.nansum(shown, axis=0, dtype=np.float64)
        if softmax:
            weights = len(shown) / (shown.shape[1] * np.maximum(1, positives))
        else:
            weights = np.nansum(1 - shown, axis=0, dtype=np.float64) / np.maximum(1, positives)
        weights = np.minimum(weights, part.max_weight)
    return Loss(part, softmax, torch.from_numpy(weights.astype(np.float32)).to(device))
