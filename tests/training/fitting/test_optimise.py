from __future__ import annotations

import pytest
import torch
from torch import nn

from app.errors import ConfigurationError
from training.fitting.optimise import Arithmetic, build_optimiser
from training.fitting.spec import Stage, TrainingPart

CPU = torch.device("cpu")


def _part(**values: object) -> TrainingPart:
    return TrainingPart.model_validate({"stages": (Stage(epochs=1, size=32),), **values})


def test_weight_decay_spares_biases_and_batch_norm() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 1))
    decayed, others = build_optimiser(network, _part(weight_decay=0.3)).param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_a_step_is_torchs(name: str, kind: type[torch.optim.Optimizer]) -> None:
    ours, theirs = (nn.Linear(3, 1, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    part = _part(optimiser=name, learning_rate=0.1, weight_decay=0.2, gradient_clip=None, autocast="none")
    optimiser = build_optimiser(ours, part)
    wanted = kind(theirs.parameters(), lr=0.1, weight_decay=0.2)  # type: ignore[call-arg]  # both kinds take it
    image = torch.tensor([[1.0, -2.0, 3.0]])
    for _ in range(3):
        Arithmetic(part, CPU).step((ours(image) ** 2).sum(), ours, optimiser)
        wanted.zero_grad()
        (theirs(image) ** 2).sum().backward()
        wanted.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize(("limit", "norm"), [(0.5, 0.5), (None, 6.0), (100.0, 6.0)])
def test_gradients_are_clipped_to_a_norm(limit: float | None, norm: float) -> None:
    layer = nn.Linear(1, 1, bias=False)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.0)
    Arithmetic(_part(gradient_clip=limit), CPU).step(6.0 * layer.weight.sum(), layer, optimiser)
    assert layer.weight.grad is not None
    assert float(layer.weight.grad.norm()) == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize(("name", "dtype"), [("none", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_forward_pass_has_the_recipes_precision(name: str, dtype: torch.dtype) -> None:
    with Arithmetic(_part(autocast=name), CPU).autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == dtype


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigurationError, match="bfloat16") as caught:
        Arithmetic(_part(autocast="float16"), CPU)
    assert caught.value.code == "float16_needs_accelerator"
