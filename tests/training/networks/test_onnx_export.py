from __future__ import annotations

from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from app.bundle.onnx_walk import inspect_network
from app.explain import Head, Method, activation_map, pooled
from app.inference.engine import OnnxRuntimeEngine
from tests.support import autograd_cam
from tests.support.networks import CLASSES, film_batch, sample, see_batch
from training.networks.network import TriageNetwork, build_network
from training.networks.onnx_export import dense_tensors, explanation_kind, feature_shape, head_tensors, onnx_bytes
from training.networks.spec import Architecture, HeadPart, NetworkPart

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
LINEAR = HeadPart(dropout=(0.5,))
MLP = HeadPart(kind="mlp", hidden=(24, 12), dropout=(0.5, 0.25, 0.0))
TOLERANCE = 1e-4  # of the largest value, if that is above 1


def _network(architecture: Architecture, head: HeadPart, *, outputs: int, channels: int) -> TriageNetwork:
    """With batch statistics that are not the initial ones, so that folding them wrongly would show."""
    part = NetworkPart(architecture=architecture, head=head)
    network = build_network(part, outputs=outputs, channels=channels, seed=3)
    see_batch(network, film_batch(4, channels=channels) * 2 + 0.5)
    return network


def _check_close(have: NDArray[Any], want: NDArray[Any]) -> None:
    np.testing.assert_allclose(have, want, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(want).max())))


@pytest.mark.parametrize(("head", "outputs", "channels"), [(LINEAR, 1, 1), (MLP, 5, 3)], ids=["linear", "mlp"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_exported_network_is_the_fitted_one(
    architecture: Architecture, head: HeadPart, outputs: int, channels: int
) -> None:
    network = _network(architecture, head, outputs=outputs, channels=channels)
    data = onnx_bytes(network, 64, channels)
    summary = inspect_network(data)  # only operators that the service accepts
    shape = feature_shape(network, 64, channels)
    assert [(t.name, t.shape) for t in summary.inputs] == [("image", (None, channels, 64, 64))]
    assert [(t.name, t.shape) for t in summary.outputs] == [("logits", (None, outputs)), ("features", (None, *shape))]
    tensors = Head.from_tensors(explanation_kind(network), head_tensors(network))
    engine = OnnxRuntimeEngine(data)
    images = film_batch(3, channels=channels, seed=9)
    with torch.inference_mode():
        logits, features = network(images)
    for image, wanted, wanted_features in zip(images, logits, features, strict=True):
        output = engine.run(image.numpy())
        _check_close(output.logits, wanted.numpy())
        _check_close(output.features, wanted_features.numpy())
        # the head that explains is the head that answers
        _check_close(tensors.logits(pooled(output.features)), output.logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_batch_axis_is_free(architecture: Architecture) -> None:
    network = _network(architecture, LINEAR, outputs=2, channels=1)
    images = film_batch(3, channels=1, seed=9)
    session = onnxruntime.InferenceSession(onnx_bytes(network, 64))
    with torch.inference_mode():
        wanted = network(images)
    for have, want in zip(session.run(None, {"image": images.numpy()}), wanted, strict=True):
        _check_close(have, want.numpy())


def test_batch_normalisation_is_folded_into_convolutions() -> None:
    network = _network("resnet18", LINEAR, outputs=1, channels=1)
    assert "BatchNormalization" not in inspect_network(onnx_bytes(network, 64)).operators


def test_the_network_is_left_as_it_is() -> None:
    network = _network("tiny_cnn", LINEAR, outputs=1, channels=1)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    state = {name: value.clone() for name, value in network.state_dict().items()}
    onnx_bytes(network, 64)
    feature_shape(network, 64)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert next(network.body.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_kinds_of_heads() -> None:
    for head, kind, shapes in (
        (LINEAR, "gap_linear", {"weight": (4, 16), "bias": (4,)}),
        (
            MLP,
            "gap_mlp_relu",
            {
                "0.weight": (24, 16),
                "0.bias": (24,),
                "1.weight": (12, 24),
                "1.bias": (12,),
                "2.weight": (4, 12),
                "2.bias": (4,),
            },
        ),
    ):
        network = _network("tiny_cnn", head, outputs=4, channels=1)
        assert explanation_kind(network) == kind
        assert {name: tensor.shape for name, tensor in head_tensors(network).items()} == shapes


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
@pytest.mark.parametrize("kind", ["gap_linear", "gap_mlp_relu"])
def test_closed_form_equals_autograd_for_resnet50(kind: str, method: Method) -> None:
    """The other architectures stand in tests/test_explain_autograd.py."""
    made = sample("resnet50")
    with torch.inference_mode():
        features = made.body(made.image).clone()
    head = Head.from_tensors(kind, dense_tensors(made.heads[kind]))
    values = features[0].numpy()
    reference = autograd_cam.gradcam if method == "gradcam" else autograd_cam.gradcam_plus_plus
    for index in range(CLASSES):
        gradient = autograd_cam.gradients(features, made.heads[kind], index, negated=False)
        found = activation_map(values, head, target="any", logit_index=index, negated=False, method=method)
        np.testing.assert_allclose(found.values, reference(values.astype(np.float64), gradient), rtol=0, atol=1e-5)
