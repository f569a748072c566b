"""The weights that a fit hands over: the last ones, or an average along the way."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from training.fitting.spec import AveragePart, TrainingPart
from training.networks.network import TriageNetwork


class Average:
    """The network that is validated and handed over, beside the one that learns.

    kind `none`: the learning network itself; `ema`: an exponential moving average of weights and batch statistics, every step;
    `swa`: the mean of the weights after each of the last epochs (Izmailov et al. 2018).
    """

    def __init__(self, part: AveragePart, network: TriageNetwork) -> None:
        self.part = part
        self.learning = network
        self.network = network if part.kind == "none" else copy.deepcopy(network).requires_grad_(False)
        self.epochs = 0
        ours, theirs = self.network.state_dict(), network.state_dict()
        self._pairs = [(value, theirs[name]) for name, value in ours.items()]  # state_dict each step would cost more

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """ema: move by 1 - decay; a young average forgets faster. step: steps done before this one."""
        if self.part.kind != "ema":
            return
        self._move(1 - min(self.part.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def after_epoch(self, epoch: int, training: TrainingPart) -> None:
        """swa: take in the weights after this epoch (from 0), once the averaging has begun."""
        if self.part.kind != "swa" or epoch < swa_begins(training):
            return
        self.epochs += 1
        self._move(1 / self.epochs)

    def _move(self, share: float) -> None:
        for ours, theirs in self._pairs:
            if ours.dtype.is_floating_point:
                ours.lerp_(theirs, share)
            else:
                ours.copy_(theirs)


def swa_begins(training: TrainingPart) -> int:
    """The first epoch (from 0) that is averaged; the last one always is."""
    return min(training.epochs - 1, math.floor(training.average.swa_start * training.epochs))


@torch.no_grad()
def reestimate_statistics(network: TriageNetwork, images: Iterable[Tensor], frozen: Collection[nn.Module] = ()) -> None:
    """Batch statistics of a network, computed anew over the images: the mean over all batches. In place.

    images: batches float32 [B, C, S, S]. frozen: layers whose statistics stay, as they did in the fit. Nothing but the statistics
    changes; a network without batch norm is left alone.
    """
    kept = set(frozen)
    norms = (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))  # noqa: SLF001  (no public base class)
    layers = [layer for layer in norms if layer not in kept]
    if not layers:
        return
    network.eval()
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative mean
        layer.train()
    for image in images:
        network(image)
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum
    network.eval()
