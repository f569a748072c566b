"""The closed form equals autograd at the same tensor: five architectures, two kinds of head, every class, both methods."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from app.explain import Head, Method, activation_map, pooled
from tests.support import autograd_cam
from tests.support.networks import BUILDERS, CLASSES, Sample, head_tensors, sample

TOLERANCE = 1e-5  # on maps in [0, 1]


@functools.cache
def network(name: str) -> tuple[Sample, torch.Tensor]:
    made = sample(name)
    with torch.inference_mode():
        return made, made.body(made.image).clone()


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "cnn3"])
def test_the_features_are_exactly_what_the_library_pools(name: str) -> None:
    made, features = network(name)
    assert made.whole is not None
    with torch.inference_mode():
        own = made.whole(made.image)[0].numpy()
    head = Head.from_tensors("gap_linear", head_tensors(made.heads["gap_linear"]))
    assert head.logits(pooled(features[0].numpy())) == pytest.approx(own, abs=1e-5)


@pytest.mark.parametrize("kind", ["gap_linear", "gap_mlp_relu"])
@pytest.mark.parametrize("name", BUILDERS)
def test_head_arithmetic_equals_torch(name: str, kind: str) -> None:
    made, features = network(name)
    with torch.inference_mode():
        logits = made.heads[kind](features.mean(dim=(2, 3)))[0].numpy()
    head = Head.from_tensors(kind, head_tensors(made.heads[kind]))
    assert head.logits(pooled(features[0].numpy())) == pytest.approx(logits, abs=1e-5)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
@pytest.mark.parametrize("kind", ["gap_linear", "gap_mlp_relu"])
@pytest.mark.parametrize("name", BUILDERS)
def test_closed_form_equals_autograd(name: str, kind: str, method: Method) -> None:
    made, features = network(name)
    head = Head.from_tensors(kind, head_tensors(made.heads[kind]))
    values = features[0].numpy()
    worst, shown = 0.0, 0
    for index in range(CLASSES):
        for negated in (False, True):
            gradient = autograd_cam.gradients(features, made.heads[kind], index, negated=negated)
            reference = autograd_cam.gradcam if method == "gradcam" else autograd_cam.gradcam_plus_plus
            expected = reference(values.astype(np.float64), gradient)
            found = activation_map(values, head, target="any", logit_index=index, negated=negated, method=method)
            assert found.no_positive_evidence == (not expected.any())
            worst = max(worst, float(np.abs(found.values - expected).max()))
            shown += not found.no_positive_evidence
    print(f"{name} {kind} {method}: largest difference {worst:.1e} over {shown} maps with evidence")
    assert worst <= TOLERANCE
    assert shown >= CLASSES


@pytest.mark.parametrize("name", BUILDERS)
def test_the_guard_of_gradcam_plus_plus_is_idle_in_these_networks(name: str) -> None:
    """Otherwise the comparison above would not be with the published formula."""
    made, features = network(name)
    p = pooled(features[0].numpy())
    for kind, head in made.heads.items():
        for index in range(CLASSES):
            gradient = Head.from_tensors(kind, head_tensors(head)).gradient(p, index)
            assert (2 - np.abs(p * gradient)).min() > 1
