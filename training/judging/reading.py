"""Logits, pooled features and feature maps of a run's network for uint8 films: one pass, in float32, where the network is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.fitting.augment import network_input
from training.networks.network import TriageNetwork
from training.recipe import Recipe

BATCH = 32
Gray = NDArray[np.uint8]


@dataclass(frozen=True)
class Reading:
    """logits: float64 [N, K]; pooled: float64 [N, C]."""

    logits: NDArray[np.float64]
    pooled: NDArray[np.float64]


Read = Callable[[Gray], Reading]  # uint8 [N, S, S] -> Reading


def reader(network: TriageNetwork, recipe: Recipe) -> Read:
    """What the network says of films, as a function of the films alone."""

    device = next(network.parameters()).device

    @torch.inference_mode()
    def read(films: Gray) -> Reading:
        logits, pooled = [], []
        for start in range(0, len(films), BATCH):
            out, features = network.eval()(tensor(films[start : start + BATCH], recipe, device))
            logits.append(out.double().cpu().numpy())
            pooled.append(features.double().mean(dim=(2, 3)).cpu().numpy())
        return Reading(np.concatenate(logits), np.concatenate(pooled))

    return read


@torch.inference_mode()
def feature_maps(network: TriageNetwork, films: Gray, recipe: Recipe) -> NDArray[np.float32]:
    """float32 [N, C, h, w]: exactly what the network pools."""
    device = next(network.parameters()).device
    parts = [
        network.eval()(tensor(films[start : start + BATCH], recipe, device))[1].float().cpu().numpy()
        for start in range(0, len(films), BATCH)
    ]
    return np.concatenate(parts)


def tensor(films: Gray, recipe: Recipe, device: torch.device) -> torch.Tensor:
    """float32 [N, C, S, S] of uint8 [N, S, S], normalised as the service does."""
    gray = torch.from_numpy(np.array(films)).to(device).float()[:, None]
    return network_input(gray, recipe.input)
