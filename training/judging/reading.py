"""Logits, pooled features and feature maps of a run's network for uint8 films, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from app.explain import pooled
from app.inference.engine import Engine, OnnxRuntimeEngine
from training.fitting.augment import network_input
from training.networks.network import TriageNetwork
from training.networks.onnx_export import onnx_bytes
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
    """What the network says of films, with the weights it has now, in float32.

    On the CPU the exported network is run by the engine that will serve it, film by film: what is judged is what is served, and it
    takes about half of torch's time. On an accelerator torch reads. Raises InternalError where the network gives no number.
    """
    if next(network.parameters()).device.type != "cpu":
        return torch_reader(network, recipe)
    data = onnx_bytes(network, recipe.input.size, recipe.input.channels)
    return engine_reader(OnnxRuntimeEngine(data, threads=torch.get_num_threads()), recipe)


def torch_reader(network: TriageNetwork, recipe: Recipe) -> Read:
    """The same by torch, in float32 on the network's device: what the engine is held against at export."""
    device = next(network.parameters()).device

    @torch.inference_mode()
    def read(films: Gray) -> Reading:
        logits, means = [], []
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for start in range(0, len(films), BATCH):
                out, features = network.eval()(tensor(films[start : start + BATCH], recipe, device))
                logits.append(out.double().cpu().numpy())
                means.append(features.double().mean(dim=(2, 3)).cpu().numpy())
        return _together(logits, means, recipe)

    return read


def engine_reader(engine: Engine, recipe: Recipe) -> Read:
    """The same by an engine that serves, film by film."""

    def read(films: Gray) -> Reading:
        logits, means = [], []
        for start in range(0, len(films), BATCH):
            for film in tensor(films[start : start + BATCH], recipe, torch.device("cpu")).numpy():
                output = engine.run(film)
                logits.append(output.logits[None].astype(np.float64))
                means.append(pooled(output.features)[None])
        return _together(logits, means, recipe)

    return read


def _together(logits: list[NDArray[np.float64]], means: list[NDArray[np.float64]], recipe: Recipe) -> Reading:
    if not logits:
        return Reading(np.empty((0, len(recipe.data.outputs))), np.empty((0, 0)))
    return Reading(np.concatenate(logits), np.concatenate(means))


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
