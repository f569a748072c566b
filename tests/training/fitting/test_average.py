from __future__ import annotations

import torch
from torch import nn

from training.fitting.average import Average, reestimate_statistics, swa_begins
from training.fitting.spec import AveragePart, Stage, TrainingPart
from training.networks.network import TriageNetwork, build_network
from training.networks.spec import NetworkPart


def _network(seed: int = 0) -> TriageNetwork:
    return build_network(NetworkPart(architecture="tiny_cnn"), outputs=1, channels=1, seed=seed)


def _fill(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(value)


def _value(network: nn.Module) -> float:
    values = {float(t.flatten()[0]) for t in network.state_dict().values() if t.dtype.is_floating_point}
    assert len(values) == 1
    return values.pop()


def test_a_young_exponential_average_forgets_faster() -> None:
    network = _network()
    average = Average(AveragePart(kind="ema", decay=0.5), network)
    _fill(average.network, 0.0)
    _fill(network, 1.0)
    average.after_step(0)  # decay (1 + 0) / (10 + 0)
    first = _value(average.network)
    torch.testing.assert_close(first, 0.9)
    average.after_step(100)  # decay 0.5 by then
    torch.testing.assert_close(_value(average.network), 0.5 * first + 0.5)
    counter = [t for t in average.network.state_dict().values() if not t.dtype.is_floating_point]
    assert all(int(t) == 1 for t in counter)


def test_no_average_is_the_learning_network() -> None:
    network = _network()
    assert Average(AveragePart(kind="none"), network).network is network


def test_swa_weighs_its_epochs_equally() -> None:
    part = AveragePart(kind="swa", swa_start=0.5)
    training = TrainingPart(stages=(Stage(epochs=6, size=32),), average=part)
    network = _network()
    average = Average(part, network)
    for epoch in range(6):
        _fill(network, float(epoch))
        average.after_step(epoch)
        average.after_epoch(epoch, training)
    assert swa_begins(training) == 3
    assert average.epochs == 3
    torch.testing.assert_close(_value(average.network), (3 + 4 + 5) / 3)


def test_swa_of_a_short_fit_has_at_least_the_last_epoch() -> None:
    part = AveragePart(kind="swa", swa_start=0.99)
    assert swa_begins(TrainingPart(stages=(Stage(epochs=1, size=32),), average=part)) == 0


def test_statistics_are_the_mean_over_all_batches_and_nothing_else_changes() -> None:
    network = _network()
    first = next(m for m in network.body.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        first.running_mean.fill_(7.0)  # type: ignore[union-attr]  # batch norm tracks
    before = {name: p.clone() for name, p in network.named_parameters()}
    images = [torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(i)) * (i + 1) for i in range(3)]
    reestimate_statistics(network, images)
    convolution = next(m for m in network.body.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        maps = [convolution(image) for image in images]
    torch.testing.assert_close(first.running_mean, torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert first.momentum == 0.1
    assert not network.training
    assert not any(m.training for m in network.modules())
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())
