"""The one transform: exact values, geometry that maps back, and how near a film and its reduced copy come to each other."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.bundle.input_spec import InputSpec
from app.domain import Geometry, Radiograph
from app.imaging.decode import ImageLimits, decode
from app.imaging.phantom import phantom
from app.preprocessing import network_tensor, normalise, prepare, resize_to_input, to_eight_bit, to_original

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FIXED = {"kind": "fixed", "mean": [0.5], "std": [0.25]}
PER_IMAGE = {"kind": "per_image", "std_floor": 8.0}


def spec(**changes: Any) -> InputSpec:
    plain = {
        "size": 224,
        "channels": 1,
        "resize": "stretch",
        "sixteen_bit": "significant_bits",
        "normalisation": PER_IMAGE,
    }
    return InputSpec.model_validate({**plain, **changes})


def film(pixels: NDArray[Any]) -> Radiograph:
    return Radiograph(pixels=pixels, sha256="0" * 64, format="png")


# --- more than 8 bits


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (10, 1_023), (12, 4_095), (14, 16_383), (16, 65_535)])
def test_significant_bits_scales_by_the_smallest_depth_that_holds_the_maximum(bits: int, most: int) -> None:
    for highest in (most, most // 2 + 1 if bits > 8 else most):
        ramp = np.linspace(0, highest, 4_096).astype(np.uint16).reshape(64, 64)
        assert np.array_equal(to_eight_bit(ramp, "significant_bits"), np.floor(ramp * 255.0 / most + 0.5))


def test_a_twelve_bit_ramp_is_not_saturated() -> None:
    """The naive way, clipping at 255, loses 94 % of it."""
    ramp = np.tile(np.arange(4_096, dtype=np.uint16), (200, 1))
    gray, _, statistics = resize_to_input(film(ramp), spec())
    assert np.mean(np.minimum(ramp, 255) == 255) > 0.93
    assert statistics.bright_fraction == pytest.approx(16 / 256, abs=0.002)
    assert statistics.mean == pytest.approx(127.5, abs=0.1)
    assert np.all(np.diff(gray[100].astype(int)) >= 0)
    assert len(np.unique(gray)) == 224


def test_min_max_and_percentile_rules() -> None:
    values = np.arange(1_000, 3_001, dtype=np.uint16).reshape(1, -1).repeat(4, axis=0)
    assert np.array_equal(to_eight_bit(values, "min_max"), np.floor((values - 1_000.0) * 255 / 2_000 + 0.5))
    hot = values.copy()
    hot[0, 0], hot[0, 1] = 65_535, 0
    clipped = to_eight_bit(hot, "percentile")
    low, high = np.sort(hot.ravel())[[int(0.005 * hot.size), int(0.995 * hot.size)]]
    expected = np.clip(np.floor((hot.astype(np.int64) - low) * 255 / (int(high) - int(low)) + 0.5), 0, 255)
    assert np.abs(clipped.astype(int) - expected).max() <= 1
    assert (clipped[0, 0], clipped[0, 1]) == (255, 0)
    flat = np.full((9, 9), 700, np.uint16)
    assert not to_eight_bit(flat, "min_max").any()
    assert not to_eight_bit(flat, "percentile").any()


@pytest.mark.parametrize("rule", ["significant_bits", "min_max", "percentile"])
def test_eight_bits_are_never_scaled(rule: Any) -> None:
    dim = phantom(1) // 2
    assert np.array_equal(to_eight_bit(dim, rule), dim)


def test_the_same_film_in_8_and_16_bits_is_the_same_input() -> None:
    image = phantom(6)
    eight, sixteen = prepare(film(image), spec()), prepare(film(image.astype(np.uint16) * 257), spec())
    assert np.array_equal(eight.resized, sixteen.resized)
    assert eight.statistics == sixteen.statistics


# --- statistics


def test_statistics_are_those_of_the_whole_film() -> None:
    image = phantom(2, height=300, width=200)
    statistics = prepare(film(image), spec(border_crop={"max_mean": 60, "max_fraction": 0.3})).statistics
    assert statistics.mean == pytest.approx(image.mean(), abs=1e-9)
    assert statistics.std == pytest.approx(image.std(), abs=1e-9)
    assert statistics.aspect == pytest.approx(200 / 300)
    assert statistics.dark_fraction == pytest.approx(np.mean(image < 16), abs=1e-7)
    assert statistics.bright_fraction == pytest.approx(np.mean(image > 239), abs=1e-7)
    assert (statistics.height, statistics.width) == (300, 200)


def test_sharpness_sees_blur_and_leaves_padding_out() -> None:
    image = phantom(2, height=448, width=448)
    blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), 4), np.uint8)
    assert prepare(film(blurred), spec()).statistics.sharpness < 0.5 * prepare(film(image), spec()).statistics.sharpness
    flat = film(np.full((200, 400), 200, np.uint8))
    assert prepare(flat, spec(resize="pad")).statistics.sharpness == 0.0


# --- border crop, CLAHE, resize


def framed(top: int, left: int, bottom: int, right: int) -> NDArray[np.uint8]:
    image = np.full((400, 300), 130, np.uint8)
    image[:top], image[:, :left] = 2, 2
    image[400 - bottom :], image[:, 300 - right :] = 2, 2
    return image


def test_border_crop_takes_the_black_frame_and_nothing_else() -> None:
    crop = {"max_mean": 5, "max_fraction": 0.2}
    geometry = prepare(film(framed(30, 20, 0, 41)), spec(border_crop=crop)).geometry
    assert (geometry.crop_top, geometry.crop_left, geometry.crop_height, geometry.crop_width) == (30, 20, 370, 239)
    inside = prepare(film(framed(30, 20, 0, 41)), spec(border_crop=crop)).resized
    assert np.array_equal(inside, np.full((224, 224), 130))


def test_border_crop_stops_at_its_limit() -> None:
    crop = {"max_mean": 5, "max_fraction": 0.1}
    geometry = prepare(film(framed(90, 80, 70, 60)), spec(border_crop=crop)).geometry
    assert (geometry.crop_top, geometry.crop_left, geometry.crop_height, geometry.crop_width) == (40, 30, 320, 240)
    black = prepare(film(np.zeros((400, 300), np.uint8)), spec(border_crop=crop)).geometry
    assert (black.crop_height, black.crop_width) == (320, 240)
    bright = prepare(film(np.full((400, 300), 90, np.uint8)), spec(border_crop=crop)).geometry
    assert (bright.crop_top, bright.crop_height) == (0, 400)


def test_clahe_only_where_contrast_is_low() -> None:
    image = phantom(3)
    dull = (image // 8 + 90).astype(np.uint8)
    clahe = {"when_std_below": 25.0}
    assert image.std() > 25 > dull.std()
    assert np.array_equal(prepare(film(image), spec(clahe=clahe)).resized, prepare(film(image), spec()).resized)
    enhanced = prepare(film(dull), spec(clahe=clahe))
    assert enhanced.resized.std() > 1.5 * prepare(film(dull), spec()).resized.std()
    assert enhanced.statistics.std == pytest.approx(dull.std())  # the film as it came
    expected = cv2.resize(
        cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(dull), (224, 224), interpolation=cv2.INTER_AREA
    )
    assert np.array_equal(enhanced.resized, expected)


def test_stretch_fills_the_square_and_pad_keeps_the_shape() -> None:
    wide = film(phantom(4, height=300, width=600))
    stretched = prepare(wide, spec()).geometry
    assert (stretched.resized_height, stretched.resized_width, stretched.pad_top, stretched.pad_left) == (
        224,
        224,
        0,
        0,
    )
    padded = prepare(wide, spec(resize="pad"))
    assert (padded.geometry.resized_height, padded.geometry.resized_width) == (112, 224)
    assert (padded.geometry.pad_top, padded.geometry.pad_left) == (56, 0)
    assert not padded.resized[:56].any()
    assert not padded.resized[168:].any()
    assert padded.resized[56:168].mean() == pytest.approx(wide.pixels.mean(), abs=1)


def test_shrinking_averages() -> None:
    board = np.indices((448, 448)).sum(axis=0) % 2 * 200
    assert set(prepare(film(board.astype(np.uint8)), spec()).resized.ravel()) == {100}


def test_shrinking_one_axis_while_the_other_grows_still_averages() -> None:
    stripes = np.zeros((100, 896), np.uint8)
    stripes[:, ::2] = 200
    assert set(prepare(film(stripes), spec()).resized.ravel()) == {100}


def test_the_low_pass_is_a_gaussian_of_the_given_width() -> None:
    point = np.zeros((224, 224), np.uint8)
    point[112, 112] = 255
    blurred = prepare(film(point), spec(antialias_sigma=1.0)).resized.astype(float)
    rows = blurred.sum(axis=1)
    variance = np.sum(rows * (np.arange(224) - 112) ** 2) / rows.sum()
    assert np.sqrt(variance) == pytest.approx(1.0, abs=0.1)
    assert np.array_equal(prepare(film(point), spec()).resized, point)


def test_the_resized_image_is_the_same_on_every_run_and_the_film_is_left_alone() -> None:
    image = phantom(9, height=777, width=913)
    before = image.copy()
    full = spec(border_crop={"max_mean": 5, "max_fraction": 0.2}, clahe={"when_std_below": 128.0}, antialias_sigma=0.7)
    first = prepare(film(image), full)
    for _ in range(5):
        again = prepare(film(image), full)
        assert np.array_equal(first.resized, again.resized)
        assert np.array_equal(first.tensor, again.tensor)
    assert np.array_equal(image, before)


# --- normalisation


def test_fixed_normalisation() -> None:
    given_spec = spec(
        normalisation={"kind": "fixed", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, channels=3
    )
    prepared = prepare(film(phantom(1)), given_spec)
    gray = prepared.resized / 255.0
    expected = np.stack([(gray - 0.485) / 0.229, (gray - 0.456) / 0.224, (gray - 0.406) / 0.225])
    assert (prepared.tensor.shape, prepared.tensor.dtype.name) == ((3, 224, 224), "float32")
    assert np.array_equal(prepared.tensor, expected.astype(np.float32))


def test_fixed_normalisation_sees_padding_as_black() -> None:
    prepared = prepare(film(phantom(1, height=200, width=400)), spec(resize="pad", normalisation=FIXED))
    assert prepared.tensor[0, 0, 0] == -2.0


@pytest.mark.parametrize("channels", [1, 3])
def test_per_image_normalisation_leaves_padding_out(channels: int) -> None:
    prepared = prepare(film(phantom(1, height=200, width=400)), spec(resize="pad", channels=channels))
    assert prepared.tensor.shape == (channels, 224, 224)
    assert prepared.tensor.flags.c_contiguous
    inner = prepared.tensor[:, 56:168]
    assert np.abs(inner.mean(axis=(1, 2))).max() < 1e-6
    assert np.abs(inner.std(axis=(1, 2)) - 1).max() < 1e-6
    assert not prepared.tensor[:, :56].any()
    assert not prepared.tensor[:, 168:].any()


def test_per_image_normalisation_has_a_floor() -> None:
    faint = film((phantom(1) // 64 + 100).astype(np.uint8))
    prepared = prepare(faint, spec())
    resized = prepared.resized.astype(np.float64)
    assert resized.std() < 8
    assert np.allclose(prepared.tensor[0], (resized - resized.mean()) / 8.0, atol=1e-6)
    assert not prepare(film(np.full((200, 200), 50, np.uint8)), spec()).tensor.any()


def test_prepare_is_its_two_halves() -> None:
    radiograph, given_spec = film(phantom(12)), spec(resize="pad", antialias_sigma=0.7)
    resized, geometry, statistics = resize_to_input(radiograph, given_spec)
    prepared = prepare(radiograph, given_spec)
    assert np.array_equal(prepared.resized, resized)
    assert np.array_equal(prepared.tensor, normalise(resized, geometry, given_spec))
    assert (prepared.geometry, prepared.statistics) == (geometry, statistics)


# --- back to the film


def peak(values: NDArray[Any]) -> tuple[float, float]:
    """Centre of what is brighter than half of the maximum."""
    rows, columns = np.nonzero(values > values.max() / 2)
    return float(rows.mean()), float(columns.mean())


_CROP = {"max_mean": 5, "max_fraction": 0.3}


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(200, 900),
    width=st.integers(200, 900),
    where=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
    resize=st.sampled_from(["pad", "stretch"]),
    borders=st.tuples(*[st.integers(0, 30)] * 4),
    max_px=st.sampled_from([None, 256, 1_024]),
)
def test_a_spot_on_the_film_comes_back_to_its_place(
    height: int,
    width: int,
    where: tuple[float, float],
    resize: str,
    borders: tuple[int, int, int, int],
    max_px: int | None,
) -> None:
    top, left, bottom, right = borders
    image = np.full((height, width), 60, np.uint8)
    y, x = int(where[0] * height), int(where[1] * width)
    cv2.circle(image, (x, y), 20, 250, -1)
    image[:top], image[height - bottom :], image[:, :left], image[:, width - right :] = 0, 0, 0, 0
    prepared = prepare(film(image), spec(resize=resize, border_crop=_CROP))
    assert (prepared.geometry.crop_top, prepared.geometry.crop_left) == (top, left)
    back = to_original(prepared.resized.astype(np.float32) - 60.0, prepared.geometry, max_px=max_px)
    scale = 1.0 if max_px is None else min(1.0, max_px / max(height, width))
    assert back.shape == (round(height * scale), round(width * scale))
    found = peak(back)
    limit = 1.0 + 0.5 * max(height, width) / 224
    assert abs(found[0] + 0.5 - (y + 0.5) * scale) <= limit
    assert abs(found[1] + 0.5 - (x + 0.5) * scale) <= limit


@pytest.mark.parametrize("resize", ["pad", "stretch"])
def test_a_coarse_map_lands_where_its_cell_lies(resize: str) -> None:
    image = framed(40, 30, 20, 10)
    geometry = prepare(film(image), spec(resize=resize, border_crop=_CROP)).geometry
    cells = np.zeros((7, 7), np.float32)
    cells[2, 4] = 1.0
    back = to_original(cells, geometry, max_px=None)
    assert back.shape == (400, 300)
    assert back.dtype == np.float32
    row = (2.5 * 32 - geometry.pad_top) * geometry.crop_height / geometry.resized_height + geometry.crop_top
    column = (4.5 * 32 - geometry.pad_left) * geometry.crop_width / geometry.resized_width + geometry.crop_left
    found = peak(back)
    assert found[0] == pytest.approx(row, abs=2)
    assert found[1] == pytest.approx(column, abs=2)


def test_outside_the_crop_there_is_no_heat() -> None:
    geometry = prepare(film(framed(40, 30, 20, 10)), spec(border_crop=_CROP)).geometry
    back = to_original(np.ones((7, 7), np.float32), geometry, max_px=None)
    inside = np.zeros((400, 300))
    inside[40:380, 30:290] = 1
    assert np.array_equal(back, inside)
    half = to_original(np.ones((7, 7), np.float32), geometry, max_px=200)
    assert np.array_equal(half, inside[::2, ::2])


def test_a_map_of_a_whole_unscaled_film_is_returned_as_it_is() -> None:
    geometry = Geometry(224, 224, 0, 0, 224, 224, 224, 224, 0, 0, 224)
    values = np.random.default_rng(1).random((224, 224), np.float32)
    assert np.array_equal(to_original(values, geometry, max_px=2_000), values)


# --- a film and its reduced copy


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_originals_and_reduced_copies_give_nearly_the_same_input() -> None:
    reduced: dict[str, str] = {}
    for manifest in SHARED.glob("*/manifest.csv"):
        if manifest.parent.name not in {"originals", "dicom"}:
            with manifest.open(newline="") as rows:
                reduced |= {row["sha256_of_original"]: row["path"] for row in csv.DictReader(rows)}
    with (SHARED / "originals" / "manifest.csv").open(newline="") as rows:
        pairs = [(row["path"], reduced.get(row["sha256_of_original"])) for row in csv.DictReader(rows)]
    limits = ImageLimits(100, 4_096)
    figures = {}
    for sigma in (None, 0.7):
        differences = []
        for original, copy in pairs:
            if copy is not None:
                a, b = (
                    resize_to_input(decode((SHARED / path).read_bytes(), limits), spec(antialias_sigma=sigma))[
                        0
                    ].astype(int)
                    for path in (original, copy)
                )
                differences.append((np.abs(a - b).mean(), np.abs(a - b).max()))
        assert len(differences) == 41
        figures[sigma] = (
            np.mean([d[0] for d in differences]),
            max(d[0] for d in differences),
            max(d[1] for d in differences),
        )
        print(
            f"sigma {sigma}: mean {figures[sigma][0]:.3f}, worst mean {figures[sigma][1]:.3f}, worst pixel {figures[sigma][2]}"
        )
    assert figures[None][0] < 0.8
    assert figures[0.7][0] < 0.35
    assert figures[0.7][1] < 0.5
    assert figures[0.7][2] < 30


# --- a second network on the same film


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": 96, "resize": "pad", "antialias_sigma": 0.7},
        {"border_crop": {"max_mean": 8.0, "max_fraction": 0.2}},
        {"clahe": {"when_std_below": 120.0}},
        {"clahe": {"when_std_below": 0.5}},
        {"sixteen_bit": "min_max", "normalisation": FIXED},
    ],
)
def test_the_tensor_alone_is_that_of_the_whole_transform(changes: dict[str, Any]) -> None:
    seen = film(phantom(3, height=400, width=310).astype(np.uint16) * 16)
    assert np.array_equal(network_tensor(seen, spec(**changes)), prepare(seen, spec(**changes)).tensor)
