"""What a body learns from films without labels, and whether it still tells them apart.

`SimSiam` (Chen and He 2021): two changed views of a film should predict each other's embedding. `Masked` (Xie et al. 2022, SimMIM):
the gray levels of hidden patches are told from what is left to see. Both take any body of `training.networks.network`.
"""

from __future__ import annotations

import abc

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.bundle.input_spec import InputSpec
from training.fitting.augment import augment, network_input
from training.fitting.spec import RadiographAugmentation

# Two views of a film must differ in all that does not matter: stronger than in a fit, and the same for every recipe.
VIEWS = RadiographAugmentation(scale=1.5, shift=0.15, rotation=15.0, erase=0.5)
# The task is hard enough by its mask.
SEEN = RadiographAugmentation(tone_share=0.5, noise=0.0, erase=0.0, coarse=0.0, sharpness=0.0)
PATCH = 16  # px of the training input
MASKED_SHARE = 0.6


class Objective(nn.Module, abc.ABC):
    """body: image float32 [B, channels, S, S] -> features [B, width, h, w]."""

    def __init__(self, body: nn.Module, spec: InputSpec, size: int) -> None:
        super().__init__()
        self.body = body
        self.spec = spec
        self.size = size

    @abc.abstractmethod
    def views(self, films: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What `forward` takes, from films uint8 [B, S, S], on the CPU; `generator` is the only source of chance."""

    @abc.abstractmethod
    def embed(self, image: Tensor) -> Tensor:
        """float [B, D] of plain images: what would collapse first."""


class SimSiam(Objective):
    """Loss: minus the mean cosine between the prediction from one view and the embedding of the other, in [-1, 1].

    The embedding gets no gradient, without which all films would soon have the same one. Widths are those of the paper's variant for
    small images, not its 2,048: they must suit a few thousand films.
    """

    def __init__(self, body: nn.Module, width: int, spec: InputSpec, size: int) -> None:
        super().__init__(body, spec, size)
        hidden, bottleneck = 512, 128
        self.projector = nn.Sequential(*_layer(width, hidden), *_layer(hidden, hidden), *_layer(hidden, hidden)[:-1])
        self.predictor = nn.Sequential(*_layer(hidden, bottleneck), nn.Linear(bottleneck, hidden))

    def views(self, films: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images [2 B, channels, size, size]: all first views, then all second ones."""
        pair = [network_input(augment(films, VIEWS, self.size, generator), self.spec) for _ in range(2)]
        return (torch.cat(pair),)

    def forward(self, images: Tensor) -> Tensor:
        embedded = self.embed(images)
        predicted = self.predictor(embedded)
        other = torch.cat(embedded.detach().chunk(2)[::-1])
        return -F.cosine_similarity(predicted.float(), other.float(), dim=1).mean()

    def embed(self, image: Tensor) -> Tensor:
        projected: Tensor = self.projector(self.body(image).mean(dim=(2, 3)))
        return projected


class Masked(Objective):
    """Loss: mean absolute error of the hidden patches' standardised gray levels, told by one linear layer per feature position.

    Hidden patches are zero in the input, the mean gray level under per-image normalisation.
    """

    def __init__(self, body: nn.Module, width: int, spec: InputSpec, size: int, stride: int) -> None:
        super().__init__(body, spec, size)
        self.decoder = nn.Sequential(nn.Conv2d(width, stride * stride, 1), nn.PixelShuffle(stride))

    def views(self, films: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images [B, channels, size, size] and masks [B, 1, size, size], 1 = hidden."""
        images = network_input(augment(films, SEEN, self.size, generator), self.spec)
        cells = -(-self.size // PATCH)
        order = torch.rand((len(films), cells * cells), generator=generator).argsort(dim=1).argsort(dim=1)
        hidden = (order < round(MASKED_SHARE * cells * cells)).float().view(-1, 1, cells, cells)
        masks = hidden.repeat_interleave(PATCH, dim=2).repeat_interleave(PATCH, dim=3)
        return images, masks[:, :, : self.size, : self.size]

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        told = self.decoder(self.body(images * (1 - masks))).float()
        told = F.interpolate(told, images.shape[-2:], mode="bilinear", align_corners=False)
        gray = images.float().mean(dim=1, keepdim=True)
        mean, std = gray.mean(dim=(1, 2, 3), keepdim=True), gray.std(dim=(1, 2, 3), keepdim=True)
        wanted = (gray - mean) / std.clamp_min(1e-3)
        return ((told - wanted).abs() * masks).sum() / masks.sum()

    def embed(self, image: Tensor) -> Tensor:
        pooled: Tensor = self.body(image).mean(dim=(2, 3))
        return pooled


def spread(embedded: Tensor) -> float:
    """How different the embeddings [N, D] of N films are, 0 = all the same direction, 1 = all directions alike.

    Standard deviation over the films of each coordinate of the L2-normalised embeddings, averaged over the coordinates, times the
    root of D (Chen and He 2021, figure 2: 1 / sqrt(D) for a healthy output, 0 for a collapsed one).
    """
    unit = F.normalize(embedded.double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5)


def _layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
