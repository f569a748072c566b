from __future__ import annotations

import math
import warnings

import pytest
import torch

from training.fitting.schedule import rate_factor, set_rate
from training.fitting.spec import SchedulePart


def _optimiser() -> torch.optim.Optimizer:
    weights = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))]
    return torch.optim.AdamW([{"params": [w]} for w in weights], lr=1e-3)


def test_cosine_warms_up_and_comes_down() -> None:
    part = SchedulePart(warmup_share=0.1)
    factors = [rate_factor(part, i / 100) for i in range(100)]
    assert factors[0] == pytest.approx(0.001 / 0.101)
    assert factors[10] == max(factors) == 1.0
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[55] == pytest.approx(0.5)
    assert rate_factor(SchedulePart(floor=0.2), 1.0) == pytest.approx(0.2)


def test_one_cycle_is_torchs() -> None:
    ours, theirs, steps = (
        _optimiser(),
        _optimiser(),
        2001,
    )  # torch's turn lies one step earlier: many steps, little difference
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants an optimiser step before the schedule's
        scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, 3e-3, total_steps=steps)
        for step in range(steps):
            if step % 100 == 0:
                set_rate(ours, SchedulePart(kind="one_cycle"), 3e-3, step / (steps - 1), 0)
                for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
                    assert a["lr"] == pytest.approx(b["lr"], rel=2e-3, abs=1e-8)
                    assert a["betas"][0] == pytest.approx(b["betas"][0], abs=2e-4)
            if step < steps - 1:
                scheduler.step()


def test_plateau_and_constant() -> None:
    plateau = SchedulePart(kind="plateau", factor=0.5)
    assert [rate_factor(plateau, 0.7, n) for n in range(3)] == [1.0, 0.5, 0.25]
    assert rate_factor(SchedulePart(kind="constant"), 0.99) == 1.0


def test_every_group_has_the_rate() -> None:
    optimiser = _optimiser()
    rate = set_rate(optimiser, SchedulePart(), 2e-3, 0.5, 0)
    assert math.isclose(rate, 2e-3 * rate_factor(SchedulePart(), 0.5))
    assert [group["lr"] for group in optimiser.param_groups] == [rate, rate]
    assert [group["betas"] for group in optimiser.param_groups] == [(0.9, 0.999)] * 2
