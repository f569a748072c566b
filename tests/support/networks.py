"""Seeded, untrained networks of six architectures, as training builds and exports them: logits beside the features that are pooled.

Their batch normalisation has seen one random batch, so that activations keep a natural size in depth.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.networks import onnx_export
from training.networks.network import build_network
from training.networks.spec import Architecture, NetworkPart
from training.networks.torchvision_compat import import_torchvision

CLASSES = 3
SIZE = 224
# architecture -> the classifier's name in torchvision's model; None: torchvision has no such network
CLASSIFIERS: dict[Architecture, str | None] = {
    "resnet18": "fc",
    "resnet50": "fc",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "swin_t": "head",
    "cnn3": None,
}
# ResNet-50 has tests of its own: its features leave the engine a little further from torch's than the others'
BUILDERS = tuple(name for name in CLASSIFIERS if name != "resnet50")


@dataclass(frozen=True)
class Sample:
    """A network cut where the service cuts it.

    body: image [B, 3, S, S] -> features [B, C, h, w]. whole: the library's own forward pass to logits with the same weights, which
    must pool exactly the body's output, or None. heads: `gap_linear` (the whole's own classifier) and `gap_mlp_relu`, both from
    pooled features.
    """

    body: nn.Module
    whole: nn.Module | None
    heads: dict[str, nn.Module]
    image: Tensor


class TwoHeaded(nn.Module):
    """One export for both heads: logits [B, 2 * CLASSES], the linear head's first."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.body = sample.body
        self.linear, self.mlp = sample.heads["gap_linear"], sample.heads["gap_mlp_relu"]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        pooled = features.mean(dim=(2, 3))
        return torch.cat([self.linear(pooled), self.mlp(pooled)], dim=1), features


@functools.cache
def sample(name: Architecture, seed: int = 0) -> Sample:
    """The same name and seed give the same weights and the same image; torch's global generator is left as it was. Built once."""
    network = build_network(NetworkPart(architecture=name), outputs=CLASSES, channels=3, seed=seed)
    body, linear = network.body, network.head
    assert isinstance(linear, nn.Linear)
    films = film_batch(2, channels=3, size=SIZE, seed=seed)
    see_batch(body, films)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mlp = nn.Sequential(nn.Linear(linear.in_features, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    whole = torchvision_twin(name, body, linear)
    for part in (body, whole, linear, mlp):
        if part is not None:
            part.eval().requires_grad_(False)
    return Sample(body, whole, {"gap_linear": linear, "gap_mlp_relu": mlp}, films[:1])


def torchvision_twin(name: Architecture, body: nn.Module, linear: nn.Linear) -> nn.Module | None:
    """torchvision's own model with these weights; every tensor must find its place."""
    classifier = CLASSIFIERS[name]
    if classifier is None:
        return None
    whole: nn.Module = getattr(import_torchvision().models, name)(weights=None, num_classes=linear.out_features)
    head = {f"{classifier}.{key}": value for key, value in linear.state_dict().items()}
    whole.load_state_dict({**body.state_dict(), **head})
    return whole.eval()


def see_batch(module: nn.Module, films: Tensor) -> None:
    """Batch normalisation takes the statistics of these films, in place; afterwards the module is in evaluation mode."""
    for layer in module.eval().modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train().momentum = None  # the plain mean of the batches seen
    with torch.no_grad():
        module(films)
    module.eval()


def film_batch(count: int, *, channels: int, size: int = 64, seed: int = 0) -> Tensor:
    """Smooth blobs with a little noise, float32 [count, channels, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((count, channels, 9, 9), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return smooth + 0.2 * torch.randn(smooth.shape, generator=generator)


def head_tensors(head: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The tensors of `head.safetensors`."""
    return onnx_export.dense_tensors(head)


def onnx_bytes(sample: Sample) -> bytes:
    """Both heads in one ONNX file, tensors inside."""
    return onnx_export.onnx_bytes(TwoHeaded(sample), SIZE, channels=3)
