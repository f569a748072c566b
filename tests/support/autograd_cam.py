"""Grad-CAM and its kin as published, by torch, without hooks: what `app.explain` is held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

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


def smooth_gradcam_plus_plus(features: list[Floats], gradients: list[Floats]) -> Floats:
    """Omeiza et al. 2019 at every position, no guard: means over the noisy copies of A and of the first three derivatives, the latter as
    powers of the first. features, gradients: [C, h, w] of each copy."""
    activation = np.mean(features, axis=0)
    first, second, third = (np.mean([g**power for g in gradients], axis=0) for power in (1, 2, 3))
    denominator = 2 * second + activation.sum(axis=(1, 2))[:, None, None] * third
    alpha = np.divide(second, denominator, out=np.zeros_like(second), where=second != 0)
    weights = (alpha * np.maximum(first, 0)).sum(axis=(1, 2))
    return normalised(np.einsum("c,chw->hw", weights, activation))


@dataclass(frozen=True)
class MaskedPasses:
    """chosen: features [n, h, w] of the channels that mask. pooled: [n + 1, C] of the film through each mask, and of the empty input."""

    chosen: Floats
    pooled: Tensor


@torch.inference_mode()
def masked_passes(image: Tensor, body: nn.Module, channels: int) -> MaskedPasses:
    """The passes of Score-CAM on the channels with the highest mean. image: [1, C, S, S]."""
    features = body(image)[0]
    chosen = features[features.double().mean(dim=(1, 2)).topk(min(channels, len(features))).indices]
    shown = functional.interpolate(chosen[:, None], image.shape[-2:], mode="bilinear", align_corners=False)
    low, high = shown.amin(dim=(2, 3), keepdim=True), shown.amax(dim=(2, 3), keepdim=True)
    films = [image * mask for mask in (shown - low) / (high - low)]
    pooled = torch.cat([body(film).mean(dim=(2, 3)) for film in [*films, torch.zeros_like(image)]])
    return MaskedPasses(chosen.numpy().astype(np.float64), pooled)


@torch.inference_mode()
def score_cam(passes: MaskedPasses, head: nn.Module, logit_index: int, *, negated: bool) -> tuple[Floats, bool]:
    """Wang et al. 2020, algorithm 1: the map, and whether any channel raised the score above that of the empty input."""
    scores = head(passes.pooled)[:, logit_index].double()
    if negated:
        scores = -scores
    weights = torch.softmax(scores[:-1], dim=0).numpy()
    return normalised(np.einsum("c,chw->hw", weights, passes.chosen)), bool((scores[:-1] > scores[-1]).any())


def normalised(raw: Floats) -> Floats:
    positive: Floats = np.maximum(raw, 0.0)
    return positive / positive.max() if positive.max() > 0 else positive
