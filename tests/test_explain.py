"""app.explain: heads, maps, overlays, contours and captions on cases small enough to check by hand."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.domain import ActivationMap, ClassScore, Decision
from app.errors import BundleError, ConflictError
from app.explain import (
    Head,
    Method,
    activation_map,
    caption,
    contours,
    logit_of,
    overlay_bytes,
    overlay_size,
    pooled,
    render_overlay,
)

F32 = NDArray[np.float32]


def f32(values: object) -> F32:
    return np.array(values, dtype=np.float32)


def linear_head(weight: object, bias: object) -> Head:
    return Head.from_tensors("gap_linear", {"weight": f32(weight), "bias": f32(bias)})


MLP = {
    "0.weight": f32([[1, 0], [0, 1], [-1, -1]]),
    "0.bias": f32([0, -1, 0]),
    "1.weight": f32([[2, 3, 5]]),
    "1.bias": f32([0.5]),
}


def explained(
    features: F32, head: Head, index: int = 0, *, negated: bool = False, method: Method = "gradcam"
) -> ActivationMap:
    return activation_map(features, head, target="pneumonia", logit_index=index, negated=negated, method=method)


# the head


def test_linear_head_by_hand() -> None:
    head = linear_head([[1, 2], [3, -4]], [0.5, 0])
    p = np.array([2.0, 1.0])
    assert head.logits(p).tolist() == [4.5, 2.0]
    assert head.gradient(p, 1).tolist() == [3.0, -4.0]
    assert head.logits(p).dtype == head.gradient(p, 0).dtype == np.float64


def test_mlp_head_by_hand() -> None:
    head = Head.from_tensors("gap_mlp_relu", MLP)
    # before ReLU: 2, 3 - 1, -5: the third unit is off
    assert head.logits(np.array([2.0, 3.0])).tolist() == [2 * 2 + 3 * 2 + 0.5]
    assert head.gradient(np.array([2.0, 3.0]), 0).tolist() == [2.0, 3.0]
    # the second unit stands at exactly zero: its slope is zero
    assert head.gradient(np.array([2.0, 1.0]), 0).tolist() == [2.0, 0.0]


@settings(deadline=None)  # the cores are shared
@given(st.integers(0, 1000), st.integers(1, 3))
def test_gradient_is_the_slope_of_the_logits(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    widths = [5, *rng.integers(2, 6, size=depth - 1).tolist(), 3]
    tensors = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        tensors[f"{i}.weight"] = rng.normal(size=(b, a)).astype(np.float32)
        tensors[f"{i}.bias"] = rng.normal(size=b).astype(np.float32)
    head = Head.from_tensors("gap_mlp_relu", tensors)
    p, step = rng.normal(size=5), 1e-7
    for k in range(3):
        numeric = [(head.logits(p + step * e)[k] - head.logits(p - step * e)[k]) / (2 * step) for e in np.eye(5)]
        assert head.gradient(p, k) == pytest.approx(np.array(numeric), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("gap_linear", {"weight": np.zeros((1, 2))}),
        ("gap_linear", {"weight": np.zeros((1, 2)), "bias": np.zeros(1), "scale": np.zeros(1)}),
        ("gap_linear", {"weight": np.zeros((1, 2)), "bias": np.zeros(2)}),
        ("gap_linear", {"weight": np.zeros(2), "bias": np.zeros(2)}),
        ("gap_linear", {"weight": np.array([[np.nan, 0]]), "bias": np.zeros(1)}),
        ("gap_linear", MLP),
        ("gap_mlp_relu", {**MLP, "1.weight": np.zeros((1, 4))}),
        ("gap_mlp_relu", {k: v for k, v in MLP.items() if k != "0.bias"}),
        ("gap_mlp_relu", {}),
        ("none", MLP),
        ("attention", MLP),
    ],
)
def test_tensors_that_make_no_such_head_are_refused(kind: str, tensors: dict[str, F32]) -> None:
    with pytest.raises(BundleError) as caught:
        Head.from_tensors(kind, tensors)
    assert caught.value.code == "head_mismatch"


def test_a_bundle_without_a_head_explains_nothing() -> None:
    head = Head.from_tensors("none", {})
    assert not head.available
    with pytest.raises(ConflictError) as caught:
        explained(np.ones((2, 3, 3), dtype=np.float32), head)
    assert (caught.value.code, caught.value.status) == ("explanation_unavailable", 409)


def test_pooled_is_the_mean_in_float64() -> None:
    features = f32([[[1, 2], [3, 4]], [[16777216, 1], [1, 1]]])  # a float32 sum would lose the ones
    assert pooled(features).tolist() == [2.5, 16777219 / 4]


@pytest.mark.parametrize(
    ("task", "target", "expected"),
    [
        ("binary", "pneumonia", (0, False)),
        ("binary", "normal", (0, True)),
        ("multiclass", "normal", (0, False)),
        ("multilabel", "pneumonia", (1, False)),
    ],
)
def test_which_logit_explains_a_class(task: str, target: str, expected: tuple[int, bool]) -> None:
    assert logit_of(task, ("normal", "pneumonia"), target) == expected  # type: ignore[arg-type]  # parametrised text


# maps

FEATURES = f32([[[1, 0], [0, 2]], [[0, 3], [1, 0]]])


def test_gradcam_by_hand() -> None:
    # 2 A_0 - A_1 = [[2, -3], [-1, 4]], its positive part over its maximum
    found = explained(FEATURES, linear_head([[2, -1]], [0]))
    assert found.values.tolist() == [[0.5, 0.0], [0.0, 1.0]]
    assert found.values.dtype == np.float32
    assert (found.no_positive_evidence, found.negated) == (False, False)
    assert (found.target, found.method) == ("pneumonia", "gradcam")


def test_gradcam_of_the_negative_class_is_that_of_minus_the_logit() -> None:
    found = explained(FEATURES, linear_head([[2, -1]], [0]), negated=True)
    assert found.values == pytest.approx(f32([[0, 1], [1 / 3, 0]]))
    assert found.negated


def test_gradcam_plus_plus_by_hand() -> None:
    # pooled 0.75 and 1; g = (2, 1): weights 2 / (2 + 1.5) and 1 / (2 + 1)
    found = explained(FEATURES, linear_head([[2, 1]], [0]), method="gradcam++")
    raw = 2 / 3.5 * FEATURES[0] + 1 / 3 * FEATURES[1]
    assert found.values == pytest.approx(raw / raw.max(), rel=1e-6)


def test_gradcam_plus_plus_leaves_channels_with_a_negative_gradient_out() -> None:
    found = explained(FEATURES, linear_head([[2, -1]], [0]), method="gradcam++")
    assert found.values.tolist() == [[0.5, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("mean", [-0.9999, -1.0, -1.0001, -4.0])
def test_gradcam_plus_plus_is_guarded_where_signed_features_reach_its_pole(mean: float) -> None:
    """Denominator 2 + p g with g = 2 is about 0 at p = -1 and negative below; one such channel must neither rule nor flip the map."""
    signed = f32([[[mean + 1, mean - 1], [mean, mean]], [[0, 8], [8, 0]]])
    found = explained(signed, linear_head([[2, 1]], [0]), method="gradcam++")
    raw = np.maximum(2.0 * signed[0] + 1 / 6 * signed[1], 0)  # the floor of 1 under the first channel
    expected = raw / raw.max() if raw.max() > 0 else raw
    assert found.values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
@pytest.mark.parametrize(
    ("features", "weight"),
    [
        (FEATURES, [[-1, -2]]),
        (np.zeros((2, 2, 2), dtype=np.float32), [[1, 1]]),
        (FEATURES, [[0, 0]]),
    ],
)
def test_no_positive_part_gives_zeros_and_says_so(features: F32, weight: list[list[int]], method: Method) -> None:
    found = explained(features, linear_head(weight, [9]), method=method)
    assert found.no_positive_evidence
    assert found.values.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_rounding_is_not_stretched_into_evidence() -> None:
    """Two channels that cancel but for the last place of float32: no map, instead of noise at full scale."""
    base = np.random.default_rng(0).random((3, 3), dtype=np.float32) + 1
    features = np.stack([base, np.nextafter(base, np.float32(0))])
    assert explained(features, linear_head([[1, -1]], [0])).no_positive_evidence
    assert not explained(features, linear_head([[1, -0.999]], [0])).no_positive_evidence


@settings(deadline=None)  # the cores are shared
@given(st.integers(0, 10_000), st.sampled_from(["gradcam", "gradcam++"]), st.floats(0.01, 100))
def test_maps_lie_in_0_to_1_and_ignore_bias_and_for_gradcam_the_scale_of_the_head(
    seed: int, method: Method, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(0.3, 1, size=(6, 4, 5)).astype(np.float32)
    weight = rng.normal(size=(2, 6))
    found = explained(features, linear_head(weight, [0, 0]), 1, method=method)
    assert found.values.shape == (4, 5)
    assert found.values.min() >= 0
    assert found.values.max() == (0 if found.no_positive_evidence else 1)
    assert np.array_equal(found.values, explained(features, linear_head(weight, [5, -7]), 1, method=method).values)
    if method == "gradcam":
        scaled = explained(features, linear_head(weight * scale, [0, 0]), 1)
        assert scaled.values == pytest.approx(found.values, abs=1e-5)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        explained(f32([[[np.nan, 1], [1, 1]]]), linear_head([[1]], [0]))


def test_features_are_not_written_to() -> None:
    features = FEATURES.copy()
    features.flags.writeable = False
    explained(features, linear_head([[2, -1]], [0]), method="gradcam++")
    assert np.array_equal(features, FEATURES)


# overlays


def film(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    waves: NDArray[np.float64] = 128 + 100 * np.sin(x / 17.0) * np.cos(y / 23.0)
    return waves.astype(np.uint8)


def test_a_cold_film_is_shown_unchanged() -> None:
    gray = film(40, 30)
    rgb = render_overlay(gray, np.zeros((40, 30), dtype=np.float32), 0.8)
    assert np.array_equal(rgb, np.stack([gray] * 3, axis=-1))


def test_alpha_zero_shows_the_film_unchanged() -> None:
    gray = film(40, 30)
    assert np.array_equal(render_overlay(gray, np.ones((40, 30), dtype=np.float32), 0.0)[..., 1], gray)


def test_red_is_important_and_its_weight_is_alpha() -> None:
    gray = np.full((8, 8), 100, dtype=np.uint8)
    rgb = render_overlay(gray, np.ones((8, 8), dtype=np.float32), 0.35)
    assert rgb[3, 3].tolist() == [round(0.65 * 100 + 0.35 * 255), 65, 65]
    assert render_overlay(gray, np.ones((8, 8), dtype=np.float32), 1.0)[0, 0].tolist() == [255, 0, 0]


def test_the_weight_grows_with_the_heat() -> None:
    gray = np.full((1, 256), 100, dtype=np.uint8)
    heat = np.linspace(0, 1, 256, dtype=np.float32)[None]
    red = render_overlay(gray, heat, 0.35)[0].astype(int)
    assert np.all(np.diff(red[:, 0] - red[:, 2]) >= 0)  # red less blue: the strength of the tint
    assert np.all(red[1:, 1] <= red[1:, 0])  # never greener than red
    middle = red[128]
    weight = 0.35 * 128 / 255
    assert middle.tolist() == [
        round((1 - weight) * 100 + weight * 255),
        round((1 - weight) * 100 + weight * 127),
        round((1 - weight) * 100),
    ]


@pytest.mark.parametrize(
    ("height", "width", "max_px", "expected"),
    [
        (2000, 1000, 1024, (1024, 512)),
        (1000, 2000, 1024, (512, 1024)),
        (600, 500, 1024, (600, 500)),
        (600, 500, None, (600, 500)),
        (4096, 3, 100, (100, 1)),
    ],
)
def test_size_is_bounded_and_never_enlarged(
    height: int, width: int, max_px: int | None, expected: tuple[int, int]
) -> None:
    assert overlay_size(height, width, max_px) == expected


def test_the_heat_may_have_any_resolution_and_a_large_film_is_averaged_down() -> None:
    gray = (np.indices((200, 100)).sum(axis=0) % 2 * 200).astype(np.uint8)  # a chequer: only averaging gives 100
    rgb = render_overlay(gray, np.zeros((3, 2), dtype=np.float32), 0.35, max_px=100)
    assert rgb.shape == (100, 50, 3)
    assert np.all(rgb == 100)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 43), (1, 1), (130, 2)])
def test_png_holds_exactly_the_rendered_pixels(height: int, width: int) -> None:
    gray, heat = film(height, width), np.random.default_rng(0).random((height, width), dtype=np.float32)
    png = overlay_bytes(gray, heat, 0.35, "png")
    back = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
    assert back is not None
    assert np.array_equal(back, render_overlay(gray, heat, 0.35))


@pytest.mark.parametrize("alpha", [0.0, 0.35, 1.0])
@pytest.mark.parametrize(("height", "width"), [(256, 192), (255, 191)])
def test_jpeg_shows_the_same_picture_as_png(height: int, width: int, alpha: float) -> None:
    """The planes are built without an RGB picture, so their colour arithmetic is checked against it."""
    gray = film(height, width)
    heat = f32(cv2.resize(f32([[0, 0.2, 0], [0.1, 1, 0.6], [0, 0.3, 0]]), (width, height)))
    jpeg = overlay_bytes(gray, heat, alpha, "jpeg")
    assert simplejpeg.decode_jpeg_header(jpeg) == (height, width, "YCbCr", "420")
    error = simplejpeg.decode_jpeg(jpeg).astype(int) - render_overlay(gray, heat, alpha)
    assert np.abs(error).mean() < 1.0
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.25  # no colour cast
    assert np.abs(error).max() < 20


def test_jpeg_is_upright_and_film_sized() -> None:
    gray = np.zeros((400, 300), dtype=np.uint8)
    gray[:100] = 200
    jpeg = simplejpeg.decode_jpeg(overlay_bytes(gray, np.zeros((7, 7), dtype=np.float32), 0.35, "jpeg", max_px=200))
    assert jpeg.shape == (200, 150, 3)
    assert jpeg[10].min() > 190
    assert jpeg[-10].max() < 10


def test_overlay_wants_one_8_bit_channel() -> None:
    with pytest.raises(ValueError, match="uint8"):
        render_overlay(np.zeros((4, 4), dtype=np.uint16), np.zeros((4, 4), dtype=np.float32), 0.3)


# contours


def test_contours_outline_a_rectangle() -> None:
    values = np.zeros((20, 30), dtype=np.float32)
    values[5:11, 8:21] = 0.5
    assert sorted(contours(values, 0.5)[0]) == [(8, 5), (8, 10), (20, 5), (20, 10)]
    assert len(contours(values, 0.5)) == 1
    assert contours(values, 0.51) == []


def test_contours_of_two_regions_one_touching_the_edge_and_one_single_pixel() -> None:
    values = np.zeros((10, 10), dtype=np.float32)
    values[0:3, 0:3] = 1
    values[7, 7] = 1
    found = sorted(contours(values), key=len)
    assert found[0] == [(7, 7)]
    assert sorted(found[1]) == [(0, 0), (0, 2), (2, 0), (2, 2)]


def test_contours_stay_within_a_pixel_of_the_region() -> None:
    heat = f32(cv2.resize(f32([[0, 0, 0], [0, 1, 0.4], [0, 0, 0]]), (300, 200)))
    polygons = contours(heat, 0.5)
    drawn = np.zeros(heat.shape, dtype=np.uint8)
    cv2.fillPoly(drawn, [np.array(p, dtype=np.int32) for p in polygons], 1)
    region = (heat >= 0.5).astype(np.uint8)
    kernel = np.ones((5, 5), dtype=np.uint8)
    assert np.all(cv2.erode(region, kernel) <= drawn)
    assert np.all(drawn <= cv2.dilate(region, kernel))
    assert all(isinstance(v, int) for p in polygons for xy in p for v in xy)  # JSON takes no numpy integers
    assert len(polygons[0]) < 60


# captions


def decision(probability: float, threshold: float | None) -> Decision:
    score = ClassScore("pneumonia", probability, 0.0, 0.0, 0.0, threshold, positive=True)
    other = ClassScore("normal", 1 - probability, 0.0, 0.0, None, None, positive=False)
    return Decision("binary", "pneumonia", ("pneumonia",), "threshold", 0.93, (score, other), "screening", ())


def test_captions() -> None:
    head = linear_head([[2, -1]], [0])
    one = caption(explained(FEATURES, head), decision(0.931, 0.412))
    assert one == (
        "pneumonia 0.93 (threshold 0.41, screening): Grad-CAM evidence for pneumonia; a hint, not a lesion outline"
    )
    plus = caption(explained(FEATURES, head, method="gradcam++"), decision(0.93, None))
    assert plus == "pneumonia 0.93 (screening): Grad-CAM++ evidence for pneumonia; a hint, not a lesion outline"
    none = caption(explained(FEATURES, linear_head([[-1, -1]], [0])), decision(0.0001, 0.999))
    assert none == (
        "pneumonia <0.01 (threshold >0.99, screening): no positive Grad-CAM evidence for pneumonia; "
        "a hint, not a lesion outline"
    )
