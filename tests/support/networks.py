"""Seeded, untrained networks of five architectures, as training exports them: logits beside the features that are pooled.

Their batch normalisation has seen one random batch, so that activations keep a natural size in depth.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.jit._trace import TracerWarning  # the public name is missing from torch's stubs

from training.networks.torchvision_compat import import_torchvision

CLASSES = 3
SIZE = 224


@dataclass(frozen=True)
class Sample:
    """A network cut where the service cuts it.

    body: image [B, 3, S, S] -> features [B, C, h, w]. whole: the library's own forward pass to logits, which must pool exactly the
    body's output, or None. heads: `gap_linear` (the whole's own classifier) and `gap_mlp_relu`, both from pooled features.
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


def _resnet18() -> tuple[nn.Module, nn.Module | None, nn.Linear]:
    net = import_torchvision().models.resnet18(weights=None, num_classes=CLASSES)
    return nn.Sequential(*list(net.children())[:-2]), net, net.fc


def _densenet121() -> tuple[nn.Module, nn.Module | None, nn.Linear]:
    net = import_torchvision().models.densenet121(weights=None, num_classes=CLASSES)
    return nn.Sequential(net.features, nn.ReLU()), net, net.classifier  # relu(norm5); not denseblock4


def _efficientnet_b0() -> tuple[nn.Module, nn.Module | None, nn.Linear]:
    net = import_torchvision().models.efficientnet_b0(weights=None, num_classes=CLASSES)
    return net.features, net, net.classifier[-1]


def _swin_t() -> tuple[nn.Module, nn.Module | None, nn.Linear]:
    net = import_torchvision().models.swin_t(weights=None, num_classes=CLASSES)
    return nn.Sequential(net.features, net.norm, net.permute), net, net.head


def _cnn3() -> tuple[nn.Module, nn.Module | None, nn.Linear]:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers), None, nn.Linear(64, CLASSES)


BUILDERS: dict[str, Callable[[], tuple[nn.Module, nn.Module | None, nn.Linear]]] = {
    "resnet18": _resnet18,
    "densenet121": _densenet121,
    "efficientnet_b0": _efficientnet_b0,
    "swin_t": _swin_t,
    "cnn3": _cnn3,
}


@functools.cache
def sample(name: str, seed: int = 0) -> Sample:
    """The same name and seed give the same weights and the same image; torch's global generator is left as it was. Built once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, whole, linear = BUILDERS[name]()
        channels = linear.in_features
        mlp = nn.Sequential(nn.Linear(channels, 32), nn.ReLU(), nn.Linear(32, CLASSES))
        films = _film_like(2)
        for module in body.eval().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train().momentum = None  # the plain mean of the batches seen
        with torch.no_grad():
            body(films)
    for part in (body, whole, linear, mlp):
        if part is not None:
            part.eval().requires_grad_(False)
    return Sample(body, whole, {"gap_linear": linear, "gap_mlp_relu": mlp}, films[:1])


def _film_like(count: int) -> Tensor:
    """Smooth blobs with a little noise, [count, 3, SIZE, SIZE]."""
    coarse = torch.randn(count, 3, 9, 9)
    smooth = nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    return smooth + 0.2 * torch.randn_like(smooth)


def head_tensors(head: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The tensors of `head.safetensors`."""
    if isinstance(head, nn.Linear):
        return {"weight": head.weight.numpy(), "bias": head.bias.numpy()}
    tensors = {}
    for i, layer in enumerate(m for m in head.modules() if isinstance(m, nn.Linear)):
        tensors[f"{i}.weight"], tensors[f"{i}.bias"] = layer.weight.numpy(), layer.bias.numpy()
    return tensors


def onnx_bytes(sample: Sample) -> bytes:
    """Both heads in one ONNX file, tensors inside."""
    target = io.BytesIO()
    with warnings.catch_warnings():
        # the older exporter says so, twice; tracing Swin warns that its window sizes become constants, as they should
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        torch.onnx.export(
            TwoHeaded(sample).eval(),
            (sample.image,),
            target,  # type: ignore[arg-type]  # the stub lacks file objects, which this exporter takes
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits", "features"],
        )
    return target.getvalue()
