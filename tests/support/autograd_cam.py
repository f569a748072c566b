"""Grad-CAM and Grad-CAM++ as published, by torch's autograd, without hooks: what the closed form is held against."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]


def gradients(features: Tensor, head: nn.Module, logit_index: int, *, negated: bool) -> Floats:
    """d score / d features, [C, h, w], by a backward pass in float32 from the score through head and pooling."""
    leaf = features.detach().clone().requires_grad_()
    score = head(leaf.mean(dim=(2, 3)))[0, logit_index]
    (gradient,) = torch.autograd.grad(-score if negated else score, leaf)
    return np.asarray(gradient[0].numpy(), dtype=np.float64)


def gradcam(features: Floats, gradient: Floats) -> Floats:
    """Selvaraju et al. 2017, eq. 1 and 2: weights are the gradients' means over positions."""
    return normalised(np.einsum("c,chw->hw", gradient.mean(axis=(1, 2)), features))


def gradcam_plus_plus(features: Floats, gradient: Floats) -> Floats:
    """Chattopadhyay et al. 2018, eq. 19 and 5: alpha at every position, no guard; the caller checks that none was needed."""
    denominator = 2 * gradient**2 + features.sum(axis=(1, 2))[:, None, None] * gradient**3
    alpha = np.divide(gradient**2, denominator, out=np.zeros_like(gradient), where=gradient != 0)
    weights = (alpha * np.maximum(gradient, 0)).sum(axis=(1, 2))
    return normalised(np.einsum("c,chw->hw", weights, features))


def normalised(raw: Floats) -> Floats:
    positive: Floats = np.maximum(raw, 0.0)
    return positive / positive.max() if positive.max() > 0 else positive
