"""The explanation through the engine: ONNX export, ONNX Runtime, closed form, against autograd on torch's own features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from app.explain import Head, Method, activation_map, pooled
from app.inference.engine import OnnxRuntimeEngine
from tests.support import autograd_cam
from tests.support.networks import BUILDERS, CLASSES, head_tensors, onnx_bytes, sample

TOLERANCE = 1e-4  # on maps in [0, 1]


def expectations(features: autograd_cam.Floats, gradient: autograd_cam.Floats) -> dict[Method, autograd_cam.Floats]:
    return {
        "gradcam": autograd_cam.gradcam(features, gradient),
        "gradcam++": autograd_cam.gradcam_plus_plus(features, gradient),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_explanations_through_the_engine_equal_autograd(name: str) -> None:
    made = sample(name)
    output = OnnxRuntimeEngine(onnx_bytes(made)).run(made.image[0].numpy())
    with torch.inference_mode():
        features = made.body(made.image)
    worst = 0.0
    for number, (kind, module) in enumerate(made.heads.items()):
        head = Head.from_tensors(kind, head_tensors(module))
        own = output.logits[number * CLASSES : (number + 1) * CLASSES]
        assert head.logits(pooled(output.features)) == pytest.approx(own, abs=1e-4)  # the invariant of every bundle
        for index in range(CLASSES):
            for negated in (False, True):
                gradient = autograd_cam.gradients(features, module, index, negated=negated)
                values = features[0].numpy().astype(np.float64)
                for method, expected in expectations(values, gradient).items():
                    found = activation_map(
                        output.features, head, target="any", logit_index=index, negated=negated, method=method
                    )
                    worst = max(worst, float(np.abs(found.values - expected).max()))
    print(f"{name}: largest difference {worst:.1e}")
    assert worst <= TOLERANCE
