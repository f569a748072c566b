"""Which part of a network learns: the head alone (a linear probe), the last blocks too, or all of it.

A frozen block is in evaluation mode: its batch statistics do not move, and its dropout and stochastic depth are off. So its output
for an image is the same in every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import nn

from app.errors import ConfigurationError
from training.networks.network import TriageNetwork
from training.networks.spec import NetworkPart

# The children of a body that make up each block, from the image to the features. "features.0" is a child of a child.
_RESNET = (("conv1", "bn1", "relu", "maxpool"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
_BLOCKS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "resnet18": _RESNET,
    "resnet50": _RESNET,
    "densenet121": (
        ("features.conv0", "features.norm0", "features.relu0", "features.pool0"),
        ("features.denseblock1", "features.transition1"),
        ("features.denseblock2", "features.transition2"),
        ("features.denseblock3", "features.transition3"),
        ("features.denseblock4", "features.norm5", "relu"),
    ),
    "efficientnet_b0": tuple((f"features.{i}",) for i in range(9)),
    "swin_t": (
        ("features.0",),
        ("features.1",),
        ("features.2", "features.3"),  # patch merging begins a stage
        ("features.4", "features.5"),
        ("features.6", "features.7", "norm", "permute"),
    ),
    "cnn3": tuple(tuple(str(4 * block + i) for i in range(4)) for block in range(3)),
    "tiny_cnn": tuple(tuple(str(4 * block + i) for i in range(4)) for block in range(3)),
}


def blocks(network: TriageNetwork) -> dict[str, tuple[nn.Module, ...]]:
    """The body's modules by block, from the image to the features; every weight of the body is in exactly one block.

    A block is called after its first module: `layer1`, `features.denseblock2`.
    """
    table = _BLOCKS[network.part.architecture]
    return {names[0]: tuple(network.body.get_submodule(name) for name in names) for names in table}


def block_names(network: TriageNetwork) -> tuple[str, ...]:
    return tuple(blocks(network))


def trained_blocks(network: TriageNetwork, part: NetworkPart, epoch: int) -> tuple[str, ...]:
    """Names of the blocks that are trained in this epoch (from 0). Raises ConfigurationError for a staging that cannot be meant."""
    names = block_names(network)
    _check(part, len(names))
    if not part.frozen:
        return names
    begun = [stage for stage in part.unfreezing if stage.epoch <= epoch]
    if not begun:
        return ()
    last = begun[-1].blocks
    return names if last is None else names[len(names) - last :]


def set_trainable(network: TriageNetwork, part: NetworkPart, epoch: int) -> None:
    """Make the network ready for a training epoch (from 0), in place: instead of `network.train()`.

    The head learns in every epoch; the blocks of the body as `part` says. Raises ConfigurationError as `trained_blocks` does.
    """
    learning = set(trained_blocks(network, part, epoch))
    network.train()
    network.body.train(len(learning) == len(block_names(network)))
    for name, modules in blocks(network).items():
        for module in modules:
            module.train(name in learning)
            module.requires_grad_(name in learning)


def frozen_layers(network: TriageNetwork, part: NetworkPart, epoch: int) -> tuple[nn.Module, ...]:
    """All modules of the blocks that are not trained in this epoch (from 0)."""
    learning = set(trained_blocks(network, part, epoch))
    resting = (module for name, modules in blocks(network).items() if name not in learning for module in modules)
    return tuple(layer for module in resting for layer in module.modules())


def _check(part: NetworkPart, count: int) -> None:
    if part.unfreezing and not part.frozen:
        raise ConfigurationError("invalid_recipe", "network.unfreezing without frozen = true: nothing is frozen")
    epochs = [stage.epoch for stage in part.unfreezing]
    sizes = [count if stage.blocks is None else stage.blocks for stage in part.unfreezing]
    if any(size > count for size in sizes):
        raise ConfigurationError(
            "invalid_recipe", f"network.unfreezing: {part.architecture} has {count} blocks, not {max(sizes)}"
        )
    if any(b <= a for a, b in pairwise(epochs)) or sizes != sorted(set(sizes)):
        raise ConfigurationError("invalid_recipe", "network.unfreezing: epochs and numbers of blocks must rise")
