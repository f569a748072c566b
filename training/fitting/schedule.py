"""The learning rate along the fit."""

from __future__ import annotations

import math

import torch

from training.fitting.spec import SchedulePart

_RISE = 0.3  # of a one-cycle fit, the share with a rising rate
_START, _END = 1 / 25, 1 / 250_000  # of the peak rate; these and the momentum range are torch's OneCycleLR defaults
_MOMENTUM = (0.85, 0.95)


def rate_factor(part: SchedulePart, position: float, reductions: int = 0) -> float:
    """What the recipe's learning rate is multiplied by.

    Args:
        position: in [0, 1), of the whole fit.
        reductions: how often a plateau has lowered the rate.
    """
    if part.kind == "constant":
        return 1.0
    if part.kind == "plateau":
        return part.factor**reductions
    if part.kind == "one_cycle":
        if position < _RISE:
            return _cosine(_START, 1.0, position / _RISE)
        return _cosine(1.0, _END, (position - _RISE) / (1 - _RISE))
    if position < part.warmup_share:
        return (position + 1e-3) / (part.warmup_share + 1e-3)  # the first step does not stand still
    return _cosine(1.0, part.floor, (position - part.warmup_share) / (1 - part.warmup_share))


def momentum(part: SchedulePart, position: float) -> float | None:
    """Adam's first beta: low where the one-cycle rate is high (Smith 2018). None: the other schedules leave it alone."""
    if part.kind != "one_cycle":
        return None
    low, high = _MOMENTUM
    if position < _RISE:
        return _cosine(high, low, position / _RISE)
    return _cosine(low, high, (position - _RISE) / (1 - _RISE))


def set_rate(
    optimiser: torch.optim.Optimizer, part: SchedulePart, peak: float, position: float, reductions: int
) -> float:
    """Give all groups their rate (and momentum) for this step; returns the rate."""
    rate = peak * rate_factor(part, position, reductions)
    beta = momentum(part, position)
    for group in optimiser.param_groups:
        group["lr"] = rate
        if beta is not None:
            group["betas"] = (beta, group["betas"][1])
    return rate


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
