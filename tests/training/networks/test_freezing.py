from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from app.errors import ConfigurationError
from tests.support.networks import film_batch
from training.networks.freezing import block_names, blocks, set_trainable, trained_blocks
from training.networks.network import TriageNetwork, build_network
from training.networks.spec import Architecture, NetworkPart

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
STAGED: dict[str, Any] = {
    "frozen": True,
    "unfreezing": [{"epoch": 2, "blocks": 1}, {"epoch": 4, "blocks": 2}, {"epoch": 5}],
}


def _network(architecture: str = "tiny_cnn", **changes: Any) -> TriageNetwork:
    part = NetworkPart.model_validate({"architecture": architecture, **changes})
    return build_network(part, outputs=2, channels=1, seed=0)


def _train(network: TriageNetwork, epoch: int, *, size: int = 32) -> set[str]:
    """One optimiser step of this epoch. Returns the names of the tensors that moved, batch statistics among them."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    set_trainable(network, network.part, epoch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    logits, _ = network(film_batch(4, channels=1, size=size))
    logits.square().sum().backward()
    optimiser.step()
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def _of_blocks(network: TriageNetwork, *wanted: int) -> set[str]:
    """Names of all tensors in these blocks, and of the head."""
    modules: dict[int, str] = {id(module): name for name, module in network.named_modules()}
    owners = [modules[id(m)] for i, found in enumerate(blocks(network).values()) if i in wanted for m in found]
    state = network.state_dict()
    return {n for n in state if n.startswith(("head.", *(f"{owner}." for owner in owners)))}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_of_the_body_is_in_one_block(architecture: Architecture) -> None:
    network = _network(architecture)
    found: list[Tensor] = []
    for modules in blocks(network).values():
        for module in modules:
            found += [*module.parameters(), *module.buffers()]
    wanted = [*network.body.parameters(), *network.body.buffers()]
    assert sorted(map(id, found)) == sorted(map(id, wanted))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_follow_the_image(architecture: Architecture) -> None:
    """A block's gradient reaches exactly the blocks before it."""
    network = _network(architecture)
    first = [next(p for m in found for p in m.parameters()) for found in blocks(network).values()]
    order = [id(p) for p in network.body.parameters()]
    assert [order.index(id(p)) for p in first] == sorted(order.index(id(p)) for p in first)
    assert order.index(id(first[0])) == 0


@pytest.mark.parametrize("architecture", ["tiny_cnn", "resnet18", "efficientnet_b0"])
def test_a_linear_probe_moves_the_head_alone(architecture: str) -> None:
    network = _network(architecture, frozen=True)
    assert _train(network, epoch=0, size=64) == {"head.weight", "head.bias"}
    assert not any(module.training for module in network.body.modules())
    images = film_batch(2, channels=1, size=64)
    with torch.inference_mode():
        assert torch.equal(network.body(images), network.body(images))  # no stochastic depth
    assert network.head.training
    assert network.dropout.training


def test_everything_moves_by_default() -> None:
    network = _network()
    assert _train(network, epoch=0) == set(network.state_dict())
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("epoch", "moving"),
    [(0, ()), (1, ()), (2, (2,)), (3, (2,)), (4, (1, 2)), (5, (0, 1, 2)), (9, (0, 1, 2))],
)
def test_staged_unfreezing(epoch: int, moving: tuple[int, ...]) -> None:
    network = _network(**STAGED)
    assert _train(network, epoch) == _of_blocks(network, *moving)
    assert trained_blocks(network, network.part, epoch) == tuple(block_names(network)[i] for i in moving)


def test_a_whole_fit_freezes_and_thaws() -> None:
    """Epoch after epoch on one network, as a fit does; then the first epoch again, as a resumed one may."""
    network = _network(**STAGED)
    for epoch, moving in ((0, ()), (2, (2,)), (4, (1, 2)), (5, (0, 1, 2)), (0, ())):
        network.zero_grad()
        assert _train(network, epoch) == _of_blocks(network, *moving)


def test_a_frozen_block_keeps_its_statistics_while_the_next_learns() -> None:
    network = _network("resnet18", frozen=True, unfreezing=[{"epoch": 0, "blocks": 1}])
    moved = _train(network, epoch=0, size=64)
    assert {name.split(".")[1] for name in moved if name.startswith("body.")} == {"layer4"}
    assert any("running_mean" in name for name in moved)
    modes = {name: module.training for name, module in network.body.named_children()}
    assert {name for name, training in modes.items() if training} == {"layer4"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"unfreezing": [{"epoch": 1}]}, "without frozen"),
        ({"frozen": True, "unfreezing": [{"epoch": 1, "blocks": 4}]}, "has 3 blocks, not 4"),
        ({"frozen": True, "unfreezing": [{"epoch": 2, "blocks": 1}, {"epoch": 2}]}, "must rise"),
        ({"frozen": True, "unfreezing": [{"epoch": 1, "blocks": 2}, {"epoch": 2, "blocks": 1}]}, "must rise"),
    ],
)
def test_stages_that_cannot_be_meant(changes: dict[str, Any], told: str) -> None:
    network = _network(**changes)
    with pytest.raises(ConfigurationError, match=told):
        set_trainable(network, network.part, 0)


def test_the_head_is_never_frozen() -> None:
    network = _network(frozen=True, head={"kind": "mlp", "hidden": [8], "dropout": [0.5, 0.5]})
    set_trainable(network, network.part, 0)
    assert isinstance(network.head, nn.Sequential)
    assert all(p.requires_grad for p in network.head.parameters())
    assert all(m.training for m in network.head)
