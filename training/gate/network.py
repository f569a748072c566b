"""The gate's network: small, one channel, whose features keep where in the picture they were seen.

    image [B, 1, 96, 96] -> six convolutions -> 16 channels on a 6 x 6 grid -> mean over 3 x 3 cells = 144 numbers, the layout
    logits = one per pose, linear in the layout
    doubt  = max(0, sure - evidence), evidence linear in the layout and learned against pictures that are no films
    features [B, 145, 1, 1] = layout and doubt

Doubt is zero for an ordinary film, so that it adds to the distance of doubtful pictures only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.gate.poses import POSES

SIZE = 96
CHANNELS = 16
LAYOUT = 9 * CHANNELS
_WIDTHS = ((1, 16, 2), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 96, 2))


class GateNetwork(nn.Module):
    """`sure`: the evidence from which on there is no doubt; set after the fit."""

    sure: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_block(*widths) for widths in _WIDTHS))
        self.squeeze = nn.Sequential(nn.Conv2d(96, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))
        self.cells = nn.AvgPool2d(2)
        self.poses = nn.Linear(LAYOUT, len(POSES))
        self.chest = nn.Linear(LAYOUT, 1)
        self.register_buffer("sure", torch.zeros(1))

    def layout(self, image: Tensor) -> Tensor:
        """float32 [B, 144]."""
        cells: Tensor = self.cells(self.squeeze(self.body(image)))
        return cells.flatten(1)

    def scores(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, P] and evidence [B], for the fit."""
        layout = self.layout(image)
        return self.poses(layout), self.chest(layout)[:, 0]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, P] and features [B, 145, 1, 1]."""
        layout = self.layout(image)
        doubt = torch.relu(self.sure - self.chest(layout))
        return self.poses(layout), torch.cat([layout, doubt], dim=1)[:, :, None, None]


def build_gate(seed: int) -> GateNetwork:
    """Freshly initialised; the same seed gives the same weights. Leaves torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GateNetwork()


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
