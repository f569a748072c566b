from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from tests.support.networks import CLASSIFIERS, film_batch, see_batch, torchvision_twin
from training.networks.network import TriageNetwork, build_network
from training.networks.spec import Architecture, HeadPart, NetworkPart

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
# body's parameters for three channels (torchvision's published counts less its classifier), features of a 64 px image
TABLE: dict[Architecture, tuple[int, tuple[int, int, int]]] = {
    "resnet18": (11_689_512 - 513_000, (512, 2, 2)),
    "resnet50": (25_557_032 - 2_049_000, (2048, 2, 2)),
    "densenet121": (7_978_856 - 1_025_000, (1024, 2, 2)),
    "efficientnet_b0": (5_288_548 - 1_281_000, (1280, 2, 2)),
    "swin_t": (28_288_354 - 769_000, (768, 2, 2)),
    "cnn3": (9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128), (128, 8, 8)),
    "tiny_cnn": (9 * (3 * 8 + 8 * 16 + 16 * 16) + 2 * (8 + 16 + 16), (16, 8, 8)),
}
MLP = HeadPart(kind="mlp", hidden=(12, 8), dropout=(0.5, 0.25, 0.0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_and_shapes(architecture: Architecture) -> None:
    parameters, shape = TABLE[architecture]
    for channels in (3, 1):
        part = NetworkPart(architecture=architecture)
        network = build_network(part, outputs=4, channels=channels, seed=0).eval()
        first = next(p for p in network.body.parameters() if p.ndim == 4)
        assert first.shape[1] == channels
        missing = (3 - channels) * first[:, 0].numel()
        assert sum(p.numel() for p in network.body.parameters()) == parameters - missing
        with torch.inference_mode():
            logits, features = network(torch.zeros(2, channels, 64, 64))
        assert features.shape == (2, *shape)
        assert logits.shape == (2, 4)


@pytest.mark.parametrize("architecture", [name for name, classifier in CLASSIFIERS.items() if classifier])
def test_features_are_what_torchvision_pools(architecture: Architecture) -> None:
    network = build_network(NetworkPart(architecture=architecture), outputs=5, channels=3, seed=0)
    see_batch(network, film_batch(2, channels=3))
    assert isinstance(network.head, nn.Linear)
    whole = torchvision_twin(architecture, network.body, network.head)
    assert whole is not None
    pooled: list[Tensor] = []  # the classifier's input is the mean of the map that we want
    classifier = whole.get_submodule(CLASSIFIERS[architecture] or "")
    classifier.register_forward_hook(lambda _, inputs, __: pooled.append(inputs[0]))
    image = film_batch(2, channels=3, seed=1)
    with torch.inference_mode():
        wanted = whole(image)
        logits, features = network(image)
        again = network.body(image)
    assert torch.equal(features, again)  # nothing after the body changes it in place
    torch.testing.assert_close(features.mean(dim=(2, 3)), pooled[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)


def test_one_seed_one_network() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()

    def state(seed: int, head: HeadPart) -> dict[str, Tensor]:
        part = NetworkPart(architecture="tiny_cnn", head=head)
        return build_network(part, outputs=3, channels=1, seed=seed).state_dict()

    for head in (HeadPart(), MLP):
        first, again, other = state(1, head), state(1, head), state(2, head)
        assert all(torch.equal(first[k], again[k]) for k in first)
        assert not any(torch.equal(first[k], other[k]) for k in first if k.startswith("head") and "weight" in k)
    assert torch.equal(before, torch.get_rng_state())


def test_initial_weights_of_a_seed_stay() -> None:
    """Sums of the weights that seed 7 gave before networks had several outputs: runs can still be repeated."""
    sums = {"resnet18": (0.38164242, -0.16513956), "tiny_cnn": (0.76253858, -1.56476980)}
    for architecture, (body, head) in sums.items():
        part = NetworkPart.model_validate({"architecture": architecture})
        network = build_network(part, outputs=1, channels=1, seed=7)
        first = next(network.body.parameters()).detach()
        assert first.double().sum().item() == pytest.approx(body, abs=1e-6)
        assert isinstance(network.head, nn.Linear)
        assert network.head.weight.detach().double().sum().item() == pytest.approx(head, abs=1e-6)


def test_the_mlp_head_has_dropout_before_each_layer() -> None:
    part = NetworkPart(architecture="tiny_cnn", head=MLP)
    network = build_network(part, outputs=3, channels=1, seed=0)
    assert network.dropout.p == 0.5
    assert isinstance(network.head, nn.Sequential)
    kinds = [(type(m).__name__, getattr(m, "p", None) or getattr(m, "out_features", None)) for m in network.head]
    assert kinds == [
        ("Linear", 12), ("ReLU", None), ("Dropout", 0.25), ("Linear", 8), ("ReLU", None), ("Dropout", None), ("Linear", 3),
    ]  # fmt: skip


def test_dropout_acts_in_training_only() -> None:
    part = NetworkPart(architecture="tiny_cnn", head=HeadPart(dropout=(0.9,)))
    network = build_network(part, outputs=2, channels=1, seed=0)
    image = film_batch(2, channels=1)
    with torch.inference_mode():
        assert torch.equal(network.eval()(image)[0], network(image)[0])
        assert not torch.equal(network.train()(image)[0], network(image)[0])


@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_b0", "tiny_cnn"])
def test_channels_last_gives_the_same(architecture: Architecture) -> None:
    network: TriageNetwork = build_network(NetworkPart(architecture=architecture), outputs=2, channels=3, seed=0).eval()
    image = film_batch(2, channels=3)
    with torch.inference_mode():
        plain = network(image)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        last = network(image.contiguous(memory_format=torch.channels_last))
    for have, want in zip(last, plain, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-4)


def test_an_image_has_one_or_three_channels() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels"):
        build_network(NetworkPart(architecture="tiny_cnn"), outputs=1, channels=2, seed=0)
