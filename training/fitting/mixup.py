"""Mixup (Zhang et al. 2018): each film blended with another one of its batch, labels likewise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mixup(image: Tensor, target: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One mixing weight and one shuffle per batch.

    Args:
        image: float32 [B, C, S, S], the network's input.
        target: float32 [B, K], nan where unknown.
        alpha: of Beta(alpha, alpha); 0 returns both unchanged and draws nothing.

    Returns:
        weight * a + (1 - weight) * b of both. A label that either film does not know is not known (nan).
    """
    if alpha == 0:
        return image, target
    weight = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(image))).to(image.device)
    return torch.lerp(image[other], image, weight), weight * target + (1 - weight) * target[other.to(target.device)]
