from __future__ import annotations

import numpy as np
import pytest
import torch

from app.bundle.onnx_walk import inspect_network
from app.explain import Head, pooled
from app.inference.engine import OnnxRuntimeEngine
from training.networks.network import TriageNetwork, build_network
from training.networks.onnx_export import feature_shape, head_tensors, onnx_bytes
from training.recipe import NetworkPart


def _network(architecture: str) -> TriageNetwork:
    """With batch statistics that are not the initial ones, so that folding them wrongly would show."""
    network = build_network(NetworkPart.model_validate({"architecture": architecture, "dropout": 0.5}), seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        network.train()
        for _ in range(3):
            network(torch.randn((4, 1, 64, 64), generator=generator) * 2 + 0.5)
    return network.eval()


@pytest.mark.parametrize(("architecture", "shape"), [("resnet18", (512, 2, 2)), ("tiny_cnn", (16, 8, 8))])
def test_the_exported_network_is_the_fitted_one(architecture: str, shape: tuple[int, int, int]) -> None:
    network = _network(architecture)
    data = onnx_bytes(network, 64)
    summary = inspect_network(data)
    assert "BatchNormalization" not in summary.operators  # folded into the convolutions
    assert [t.name for t in summary.inputs] == ["image"]
    assert {t.name: t.shape[0] for t in summary.outputs} == {"logits": None, "features": None}  # free batch axis
    assert feature_shape(network, 64) == shape
    engine = OnnxRuntimeEngine(data)
    head = Head.from_tensors("gap_linear", head_tensors(network))
    for seed in range(3):
        image = torch.randn((1, 1, 64, 64), generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            logits, features = network(image)
        output = engine.run(image[0].numpy())
        np.testing.assert_allclose(output.logits, logits[0].numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(output.features, features[0].numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(head.logits(pooled(output.features)), output.logits, rtol=0, atol=1e-4)


def test_one_seed_one_network() -> None:
    part = NetworkPart(architecture="tiny_cnn")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (build_network(part, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert torch.equal(before, torch.get_rng_state())
