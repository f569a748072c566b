"""The networks: a convolutional part whose last map is pooled, and a linear head.

`TriageNetwork.forward` returns logits and features; the features are exactly the tensor that global average pooling averages,
so that the service can explain an answer in closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks.torchvision_compat import import_torchvision
from training.recipe import NetworkPart


class TriageNetwork(nn.Module):
    """image float32 [B, 1, S, S] -> (logits [B, 1], features [B, C, h, w]). Dropout acts on the pooled features in training."""

    def __init__(self, body: nn.Module, channels: int, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        pooled = features.mean(dim=(2, 3))
        return self.head(self.dropout(pooled)), features


def build_network(part: NetworkPart, seed: int) -> TriageNetwork:
    """A freshly initialised network; the same seed gives the same weights. Leaves torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, channels = _resnet18() if part.architecture == "resnet18" else _tiny_cnn()
        return TriageNetwork(body, channels, part.dropout)


def _resnet18() -> tuple[nn.Module, int]:
    """ResNet-18 (He et al. 2016) up to and including layer4, with a one-channel first convolution."""
    resnet = import_torchvision().models.resnet18(weights=None)
    first = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    stem = [first, resnet.bn1, resnet.relu, resnet.maxpool]
    return nn.Sequential(*stem, resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4), 512


def _tiny_cnn() -> tuple[nn.Module, int]:
    """Three blocks, for tests and trials: seconds, not minutes."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers), 16
