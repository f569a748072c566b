"""SmoothGrad-CAM++ and Score-CAM: their copies of the film, their maps by hand, and against torch on real architectures."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.domain import NetworkOutput
from app.errors import ConflictError
from app.explain import Head, ScoreCam, SmoothGradCam, activation_map, pooled
from app.explain.score import CHANNELS
from app.explain.smooth import NOISE, SAMPLES
from tests.support import autograd_cam
from tests.support.networks import CLASSES, Sample, head_tensors, sample
from training.networks.spec import Architecture

F32 = NDArray[np.float32]
SHA = "3f79bb7b435b05321651daefd374cdc681dc06faa65e374e38337b88ca046dea"
TOLERANCE = 1e-5  # on maps in [0, 1]
NETWORKS: tuple[Architecture, ...] = ("cnn3", "resnet18")
KINDS = ("gap_linear", "gap_mlp_relu")


def f32(values: object) -> F32:
    return np.array(values, dtype=np.float32)


def head_of(weight: object) -> Head:
    values = f32(weight)
    return Head.from_tensors("gap_linear", {"weight": values, "bias": np.zeros(len(values), np.float32)})


def films(channels: int = 3, size: int = 64) -> F32:
    return np.random.default_rng(1).random((channels, size, size), dtype=np.float32)


# SmoothGrad-CAM++: the noisy copies


def test_the_noise_belongs_to_the_film_and_to_the_copy() -> None:
    tensor = films()
    one, again = (SmoothGradCam(tensor, SHA, head_of([[1]])) for _ in range(2))
    other = SmoothGradCam(tensor, SHA[::-1], head_of([[1]]))
    copies = [one.tensor(i) for i in range(SAMPLES)]
    for i in reversed(range(SAMPLES)):  # in any order
        assert np.array_equal(copies[i], again.tensor(i))
        assert not np.array_equal(copies[i], other.tensor(i))
    assert len({copy.tobytes() for copy in copies}) == SAMPLES == one.passes == 16


def test_the_noise_is_a_tenth_of_the_range_and_the_same_in_all_channels() -> None:
    tensor = films(channels=3, size=128) * f32([1, 2, 5])[:, None, None] - 1
    smooth = SmoothGradCam(tensor, SHA, head_of([[1]]))
    noise = np.stack([smooth.tensor(i) - tensor for i in range(SAMPLES)])
    assert noise.dtype == np.float32
    assert noise.std(axis=(0, 2, 3)) == pytest.approx(NOISE * np.ptp(tensor, axis=(1, 2)), rel=0.01)
    assert abs(noise.mean()) < 0.002
    assert (
        np.abs(noise[:, 1] / 2 - noise[:, 0]).max() < 0.01
    )  # their ranges are 2 and 1, to within what 128 x 128 draws reach
    across = np.corrcoef(noise[:, 0].reshape(SAMPLES, -1))
    assert np.abs(across - np.eye(SAMPLES)).max() < 0.05  # the copies know nothing of each other


# SmoothGrad-CAM++: the maps


def outputs_of(features: list[F32], logits: list[list[float]] | None = None) -> list[NetworkOutput]:
    return [NetworkOutput(f32(logits[i] if logits else [0.0]), f) for i, f in enumerate(features)]


def test_without_noise_it_is_gradcam_plus_plus() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((5, 4, 4), dtype=np.float32)
    head = head_of(rng.normal(size=(2, 5)))
    for negated in (False, True):
        found = SmoothGradCam(films(), SHA, head).map(
            outputs_of([features] * SAMPLES), target="x", logit_index=1, negated=negated
        )
        plain = activation_map(features, head, target="x", logit_index=1, negated=negated, method="gradcam++")
        assert found.values == pytest.approx(plain.values, abs=1e-6)
        assert (found.method, found.negated, found.target) == ("smoothgradcam++", negated, "x")


def test_smooth_map_by_hand() -> None:
    # hidden units ReLU(p0) and ReLU(p0 - 1), summed: g = 2 in the first copy (p0 = 2), 1 in the second (p0 = 1/2)
    mlp = {"0.weight": f32([[1, 0], [1, 0]]), "0.bias": f32([0, -1]), "1.weight": f32([[1, 1]]), "1.bias": f32([0])}
    two = Head.from_tensors("gap_mlp_relu", mlp)
    a, b = f32([[[2, 2]], [[9, 0]]]), f32([[[0, 1]], [[0, 9]]])
    found = SmoothGradCam(films(), SHA, two).map(outputs_of([a, b]), target="x", logit_index=0, negated=False)
    assert found.values == pytest.approx(
        f32([[1 / 1.5, 1]])
    )  # mean features (1, 1.5); the second channel has no gradient


def test_the_mean_derivatives_weigh_the_channels() -> None:
    """Two channels, both on: weights ReLU(mean g) / (2 + p mean(g^3) / mean(g^2)), which no mean of single maps gives."""
    mlp = {
        "0.weight": f32([[1, 0], [0, 1], [1, 0]]),
        "0.bias": f32([0, 0, -1]),
        "1.weight": f32([[1, 1, 1]]),
        "1.bias": f32([0]),
    }
    head = Head.from_tensors("gap_mlp_relu", mlp)
    a, b = f32([[[4, 0]], [[0, 2]]]), f32([[[1, 0]], [[0, 2]]])  # p0 = 2: g0 = 2; p0 = 1/2: g0 = 1; g1 = 1 in both
    found = SmoothGradCam(films(), SHA, head).map(outputs_of([a, b]), target="x", logit_index=0, negated=False)
    first = 1.5 / (2 + 1.25 * (9 / 2) / (5 / 2)) * 2.5
    second = 1 / (2 + 1 * 1) * 2
    assert found.values == pytest.approx(f32([[1, second / first]]) if first > second else f32([[first / second, 1]]))


def test_with_a_linear_head_the_noise_still_counts() -> None:
    """Its derivatives are the same for every film: the map moves because its features are those of the copies."""
    head = head_of([[1, 1]])
    plain, copy = f32([[[1, 0]], [[0, 1]]]), f32([[[3, 0]], [[0, 1]]])
    found = SmoothGradCam(films(), SHA, head).map(outputs_of([copy] * 2), target="x", logit_index=0, negated=False)
    still = activation_map(plain, head, target="x", logit_index=0, negated=False, method="gradcam++")
    assert np.abs(found.values - still.values).max() > 0.3


def test_no_head_no_map() -> None:
    nothing = SmoothGradCam(films(), SHA, Head.from_tensors("none", {}))
    with pytest.raises(ConflictError):
        nothing.map(outputs_of([f32([[[1]]])]), target="x", logit_index=0, negated=False)


# Score-CAM


def test_the_copies_of_score_cam() -> None:
    """The empty input, then the film through its channels by their mean; a channel that is the same everywhere masks nothing."""
    features = f32([[[0, 1], [0, 1]], [[7, 7], [7, 7]], [[2, 2], [4, 4]]])
    tensor = np.ones((1, 64, 64), np.float32) * 3
    score = ScoreCam(tensor, features)
    assert score.passes == 3
    assert not score.tensor(0).any()
    strongest, weakest = score.tensor(1)[0], score.tensor(2)[0]
    assert (strongest[0, 0], strongest[-1, 0], strongest[0, -1]) == (0, 3, 0)  # from top to bottom
    assert (weakest[0, 0], weakest[-1, 0], weakest[0, -1]) == (0, 0, 3)  # from left to right
    assert strongest[:, 0] == pytest.approx(np.clip((np.arange(64) - 15.5) / 32, 0, 1) * 3)  # bilinear
    assert np.array_equal(score.tensor(1), score.tensor(1))


def test_score_map_by_hand() -> None:
    features = f32([[[1, 0]], [[0, 3]]])  # the second one is stronger, and so the first copy
    score = ScoreCam(films(), features)
    outputs = outputs_of([features] * 3, [[0, 0.0], [0, 1.0], [0, 1.0 + np.log(9.0)]])
    found = score.map(outputs, target="x", logit_index=1, negated=False)
    assert found.values == pytest.approx(f32([[1.0, 0.3 / 0.9]]))  # weights 0.1 on (0, 3) and 0.9 on (1, 0)
    assert found.method == "scorecam"
    assert not found.no_positive_evidence
    turned = score.map(
        outputs_of([features] * 3, [[1.0], [0.0], [-np.log(9.0)]]), target="x", logit_index=0, negated=True
    )
    assert turned.values == pytest.approx(found.values)  # minus the logit is the score


def test_a_score_that_no_channel_raises_is_no_evidence() -> None:
    features = f32([[[1, 0]], [[0, 3]]])
    outputs = outputs_of([features] * 3, [[1.0], [1.0], [0.5]])
    found = ScoreCam(films(), features).map(outputs, target="x", logit_index=0, negated=False)
    assert found.no_positive_evidence
    assert not found.values.any()
    other = ScoreCam(films(), features).map(outputs, target="y", logit_index=0, negated=True)
    assert not other.no_positive_evidence


def test_scores_far_apart_do_not_overflow() -> None:
    features = f32([[[1, 0]], [[0, 3]]])
    outputs = outputs_of([features] * 3, [[-5000.0], [4000.0], [-4000.0]])
    found = ScoreCam(films(), features).map(outputs, target="x", logit_index=0, negated=False)
    assert found.values.tolist() == [[0.0, 1.0]]


def test_at_most_32_channels_the_strongest() -> None:
    rng = np.random.default_rng(5)
    features = rng.random((100, 4, 4), dtype=np.float32)
    score = ScoreCam(films(1), features)
    assert score.passes == 1 + CHANNELS == 33
    outputs = outputs_of([features] * 33, [[0.0], *[[1.0]] * 32])
    found = score.map(outputs, target="x", logit_index=0, negated=False)
    strongest = sorted(range(100), key=lambda c: -float(features[c].mean()))[:32]
    raw = features[strongest].mean(axis=0)
    assert found.values == pytest.approx(raw / raw.max(), abs=1e-6)


def test_a_film_without_any_contrast_in_its_features_has_no_map() -> None:
    flat = np.ones((4, 3, 3), np.float32)
    flat[0, 0, 0] = np.nextafter(np.float32(1), np.float32(2))  # rounding, not contrast
    score = ScoreCam(films(), flat)
    assert score.passes == 1
    found = score.map(outputs_of([flat], [[-9.0]]), target="x", logit_index=0, negated=False)
    assert found.no_positive_evidence
    assert found.values.shape == (3, 3)


# both, against torch


@functools.cache
def network(name: Architecture) -> Sample:
    return sample(name)


def body_features(made: Sample, tensor: F32) -> F32:
    with torch.inference_mode():
        return np.asarray(made.body(torch.from_numpy(tensor)[None])[0].numpy().copy(), dtype=np.float32)


@functools.cache
def noisy_features(name: Architecture) -> tuple[F32, ...]:
    """The copies do not depend on the head."""
    made = network(name)
    smooth = SmoothGradCam(made.image[0].numpy(), SHA, head_of([[1]]))
    return tuple(body_features(made, smooth.tensor(i)) for i in range(smooth.passes))


@functools.cache
def masked(name: Architecture) -> tuple[ScoreCam, tuple[F32, ...], autograd_cam.MaskedPasses]:
    made = network(name)
    image = made.image[0].numpy()
    score = ScoreCam(image, body_features(made, image))
    found = tuple(body_features(made, score.tensor(i)) for i in range(score.passes))
    return score, found, autograd_cam.masked_passes(made.image, made.body, CHANNELS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_smooth_maps_equal_autograd(name: Architecture, kind: str) -> None:
    made, copies = network(name), noisy_features(name)
    smooth = SmoothGradCam(made.image[0].numpy(), SHA, Head.from_tensors(kind, head_tensors(made.heads[kind])))
    shown = 0
    for index in range(CLASSES):
        for negated in (False, True):
            gradients = [
                autograd_cam.gradients(torch.from_numpy(copy)[None], made.heads[kind], index, negated=negated)
                for copy in copies
            ]
            expected = autograd_cam.smooth_gradcam_plus_plus([c.astype(np.float64) for c in copies], gradients)
            found = smooth.map(outputs_of(list(copies)), target="x", logit_index=index, negated=negated)
            assert np.abs(found.values - expected).max() <= TOLERANCE
            shown += not found.no_positive_evidence
    assert shown >= CLASSES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_score_maps_equal_torch(name: Architecture, kind: str) -> None:
    made = network(name)
    score, copies, reference = masked(name)
    head = Head.from_tensors(kind, head_tensors(made.heads[kind]))
    outputs = [NetworkOutput(head.logits(pooled(copy)).astype(np.float32), copy) for copy in copies]
    shown = 0
    for index in range(CLASSES):
        for negated in (False, True):
            expected, raised = autograd_cam.score_cam(reference, made.heads[kind], index, negated=negated)
            found = score.map(outputs, target="x", logit_index=index, negated=negated)
            assert found.no_positive_evidence == (not raised)
            if raised:
                assert np.abs(found.values - expected).max() <= 1e-4  # through the network twice, in float32
            shown += raised
    assert shown >= CLASSES
