"""The gate's network: what it exports is what it is, it keeps the layout, and doubt is one-sided."""

from __future__ import annotations

import numpy as np
import torch

from app.bundle.onnx_walk import inspect_network
from app.inference.engine import OnnxRuntimeEngine
from training.gate.network import LAYOUT, SIZE, build_gate
from training.gate.poses import POSES
from training.networks.onnx_export import onnx_bytes


def test_engine_and_torch_agree_and_the_walk_takes_it() -> None:
    network = build_gate(1).eval()
    network.sure.fill_(0.7)
    data = onnx_bytes(network, SIZE)
    assert {t.name for t in inspect_network(data).outputs} == {"logits", "features"}
    image = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, features = network(image)
    output = OnnxRuntimeEngine(data).run(image[0].numpy())
    assert output.logits.shape == (len(POSES),)
    assert output.features.shape == (LAYOUT + 1, 1, 1)
    assert np.allclose(output.logits, logits[0].numpy(), atol=1e-4)
    assert np.allclose(output.features, features[0].numpy(), atol=1e-4)


def test_the_same_seed_gives_the_same_network_and_leaves_torchs_chance_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = build_gate(1), build_gate(1), build_gate(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.poses.weight, second.poses.weight)
    assert not torch.equal(first.poses.weight, other.poses.weight)
    assert 50_000 < sum(p.numel() for p in first.parameters()) < 200_000


def test_features_keep_where_something_was_seen() -> None:
    network = build_gate(1).eval()
    image = torch.zeros(2, 1, SIZE, SIZE)
    image[0, 0, :20, :20] = 3  # a bright corner, and the opposite one
    image[1, 0, -20:, -20:] = 3
    with torch.inference_mode():
        one, other = network.layout(image).view(2, -1, 3, 3)
        empty = network.layout(torch.zeros(1, 1, SIZE, SIZE)).view(-1, 3, 3)
    assert (one - empty)[:, 0, 0].abs().max() > 10 * (one - empty)[:, 2, 2].abs().max()
    assert (other - empty)[:, 2, 2].abs().max() > 10 * (other - empty)[:, 0, 0].abs().max()


def test_there_is_no_doubt_above_sure() -> None:
    network = build_gate(1).eval()
    image = torch.randn(4, 1, SIZE, SIZE)
    with torch.inference_mode():
        _, evidence = network.scores(image)
        network.sure.fill_(float(evidence.median()))
        doubt = network(image)[1][:, -1, 0, 0]
    assert torch.allclose(doubt, (network.sure - evidence).clamp_min(0), atol=1e-6)
    assert (doubt == 0).any()
    assert (doubt > 0).any()
