"""The networks: a body whose last map is pooled, and a head of dense layers.

`TriageNetwork.forward` returns logits and features; the features are exactly the tensor that global average pooling averages,
so that the service can explain an answer in closed form (DESIGN section 4):

    resnet18, resnet50   layer4 (He et al. 2016)
    densenet121          relu(norm5), the ReLU not in place (Huang et al. 2017)
    efficientnet_b0      features[-1], SiLU, slightly negative (Tan and Le 2019)
    swin_t               permute(norm(x)) as NCHW (Liu et al. 2021)
    cnn3                 after the last of three blocks convolution, batch norm, ReLU, max-pool
    tiny_cnn             as cnn3, smaller: for tests and trials

The names of a body's tensors are torchvision's, less its classifier, so that its state dicts fit (`training.networks.weights`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from training.networks.spec import HeadPart, NetworkPart
from training.networks.torchvision_compat import import_torchvision


class TriageNetwork(nn.Module):
    """image float32 [B, channels, S, S] -> (logits [B, K], features [B, C, h, w]).

    body: image -> features. dropout: on the pooled features. head: pooled features -> logits, a linear layer or a sequence of linear
    layers with ReLU and dropout between them.
    """

    def __init__(
        self, body: nn.Module, dropout: nn.Dropout, head: nn.Linear | nn.Sequential, part: NetworkPart
    ) -> None:
        super().__init__()
        self.body = body
        self.dropout = dropout
        self.head = head
        self.part = part

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        pooled = features.mean(dim=(2, 3))
        return self.head(self.dropout(pooled)), features


def build_network(part: NetworkPart, *, outputs: int, channels: int, seed: int) -> TriageNetwork:
    """A freshly initialised network; the same seed gives the same weights. Leaves torch's global generator as it was.

    Args:
        outputs: number of logits K (1 for a binary recipe).
        channels: of the image, 1 or 3.

    Raises:
        ValueError: another number of channels.
    """
    if channels not in {1, 3}:
        raise ValueError(f"an image has 1 or 3 channels, not {channels}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, width = _BODIES[part.architecture](channels)
        dropout, head = _head(part.head, width, outputs)
    return TriageNetwork(body, dropout, head, part)


def _head(part: HeadPart, width: int, outputs: int) -> tuple[nn.Dropout, nn.Linear | nn.Sequential]:
    """The dropout of the pooled features, and what follows it. Every linear layer has a dropout of its own before it."""
    widths = (width, *part.hidden, outputs)
    linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
    first, *others = (nn.Dropout(share) for share in part.dropout)
    if part.kind == "linear":
        return first, linears[0]
    layers: list[nn.Module] = [linears[0]]
    for dropout, linear in zip(others, linears[1:], strict=True):
        layers += [nn.ReLU(), dropout, linear]
    return first, nn.Sequential(*layers)


def first_convolution(body: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and layer of the convolution that reads the image."""
    for name, module in body.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise ValueError("a body without a convolution")


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _for_channels(body: nn.Module, channels: int, init: Callable[[Tensor], object] | None) -> None:
    """Give a torchvision body, made for three channels, a new first convolution where the image has one. In place.

    init: as torchvision fills that convolution's weight; None leaves torch's default.
    """
    name, old = first_convolution(body)
    if old.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        cast("tuple[int, int]", old.kernel_size),
        stride=cast("tuple[int, int]", old.stride),
        padding=cast("tuple[int, int]", old.padding),
        bias=old.bias is not None,
    )
    if init is not None:
        init(new.weight)
    parent, _, last = name.rpartition(".")
    setattr(body.get_submodule(parent), last, new)


def _fan_out(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _resnet(name: str, width: int) -> Callable[[int], tuple[nn.Module, int]]:
    def body(channels: int) -> tuple[nn.Module, int]:
        whole = getattr(import_torchvision().models, name)(weights=None)
        parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        cut = _named(**{part: getattr(whole, part) for part in parts})
        _for_channels(cut, channels, _fan_out)
        return cut, width

    return body


def _densenet121(channels: int) -> tuple[nn.Module, int]:
    whole = import_torchvision().models.densenet121(weights=None)
    body = _named(features=whole.features, relu=nn.ReLU())
    _for_channels(body, channels, nn.init.kaiming_normal_)
    return body, 1024


def _efficientnet_b0(channels: int) -> tuple[nn.Module, int]:
    body = _named(features=import_torchvision().models.efficientnet_b0(weights=None).features)
    _for_channels(body, channels, lambda weight: nn.init.kaiming_normal_(weight, mode="fan_out"))
    return body, 1280


def _swin_t(channels: int) -> tuple[nn.Module, int]:
    whole = import_torchvision().models.swin_t(weights=None)
    body = _named(features=whole.features, norm=whole.norm, permute=whole.permute)
    _for_channels(body, channels, None)
    return body, 768


def _blocks_of(*widths: int) -> Callable[[int], tuple[nn.Module, int]]:
    """Blocks of 3 x 3 convolution without bias, batch norm, ReLU and 2 x 2 max-pool."""

    def body(channels: int) -> tuple[nn.Module, int]:
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers), widths[-1]

    return body


_BODIES: dict[str, Callable[[int], tuple[nn.Module, int]]] = {
    "resnet18": _resnet("resnet18", 512),
    "resnet50": _resnet("resnet50", 2048),
    "densenet121": _densenet121,
    "efficientnet_b0": _efficientnet_b0,
    "swin_t": _swin_t,
    "cnn3": _blocks_of(32, 64, 128),
    "tiny_cnn": _blocks_of(8, 16, 16),
}
