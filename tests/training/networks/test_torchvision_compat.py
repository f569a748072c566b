from __future__ import annotations

import torch

from training.networks.torchvision_compat import import_torchvision


def test_torchvision_loads_beside_a_cpu_torch_and_only_once() -> None:
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision
    network = torchvision.models.resnet18(weights=None).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
