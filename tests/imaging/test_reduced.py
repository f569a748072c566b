"""The reduced decode: the rule, and that the network sees what it would see of the film in full, within one gray level."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.bundle.input_spec import REDUCED_FROM, InputSpec
from app.domain import Radiograph
from app.imaging.codecs import decode_jpeg_gray
from app.imaging.decode import ImageLimits, decode
from app.imaging.jpeg_header import JpegHeader, read_jpeg_header
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.imaging.phantom_dicom import encode_dicom
from app.imaging.reduced import is_reduced
from app.preprocessing import prepare, resize_to_input
from tests.support.image_bytes import exif, exif_segment, with_segment

LIMITS = ImageLimits(min_px=1, max_px=4_096)
SIZE = 128


def spec(size: int = SIZE, **changes: Any) -> InputSpec:
    plain = {
        "size": size,
        "channels": 1,
        "resize": "stretch",
        "sixteen_bit": "significant_bits",
        "reduced_decode": True,
        "normalisation": {"kind": "per_image", "std_floor": 8.0},
    }
    return InputSpec.model_validate({**plain, **changes})


def film(height: int, width: int, *, edges: bool = False) -> NDArray[np.uint8]:
    """A phantom as a detector would give it: anatomy blurred over a few pixels, grain in every one.

    edges: with what hurts most: black shutters on all sides and a white marker, drawn from one pixel to the next.
    """
    small = phantom(5, height=min(height // 4, 512), width=min(width // 4, 512))
    small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    grain = np.random.default_rng(1).integers(-6, 7, (height, width))
    gray = np.asarray(np.clip(small.astype(np.int16) + grain, 0, 255), np.uint8)
    if edges:
        gray[: height // 40], gray[-height // 23 :], gray[:, : width // 31], gray[:, -width // 27 :] = 0, 0, 0, 0
        gray[height // 9 : height // 7, width // 8 : width // 6] = 255
    return gray


def pillow_jpeg(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def both(data: bytes, network: InputSpec) -> tuple[Radiograph, Radiograph]:
    """Decoded in full, and for the network."""
    return decode(data, LIMITS), decode(data, LIMITS, network=network)


def difference(data: bytes, network: InputSpec) -> NDArray[np.int64]:
    """Of the network's uint8 input, gray levels, between the film in full and as it is decoded for the network: [S, S]."""
    full, reduced = (prepare(radiograph, network).resized.astype(np.int64) for radiograph in both(data, network))
    return np.asarray(np.abs(full - reduced))


def worst(data: bytes, network: InputSpec) -> int:
    return int(difference(data, network).max())


# --- the rule


def header(width: int, height: int, orientation: int = 1) -> JpegHeader:
    return JpegHeader(width, height, components=1, progressive=False, orientation=orientation, scans=1)


def test_the_rule_begins_at_eight_times_the_networks_size() -> None:
    assert REDUCED_FROM == 8
    assert is_reduced(header(1_792, 4_096), spec(224))
    assert not is_reduced(header(1_791, 4_096), spec(224))
    assert not is_reduced(header(4_096, 1_791), spec(224))
    assert not is_reduced(header(4_096, 4_096), spec(224, reduced_decode=False))
    assert not is_reduced(header(4_096, 4_096), None)


def test_no_bundle_reduces_unasked() -> None:
    plain = spec().model_dump()
    del plain["reduced_decode"]
    assert not InputSpec.model_validate(plain).reduced_decode


@pytest.mark.parametrize(
    "also", [{"border_crop": {"max_mean": 8, "max_fraction": 0.1}}, {"clahe": {"when_std_below": 40}}]
)
def test_what_hangs_on_single_pixels_goes_not_with_it(also: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reduced_decode goes with neither"):
        spec(**also)
    assert not spec(**also, reduced_decode=False).reduced_decode


@pytest.mark.parametrize("encode", [encode_png, encode_dicom])
def test_only_jpeg_files_are_reduced(encode: Any) -> None:
    pixels = phantom(1, height=1_200, width=1_040)
    found = decode(encode(pixels), LIMITS, network=spec())
    assert found.reduced_from is None
    assert found.pixels.shape == (1_200, 1_040)
    assert decode(encode_jpeg(pixels), LIMITS, network=spec()).pixels.shape == (600, 520)


def test_the_decoder_halves_every_size_and_rounds_up() -> None:
    for height in range(1, 36):
        for width in (1, 2, 7, 8, 9, 16, 17, 31, 33):
            data = encode_jpeg(np.full((height, width), 90, np.uint8))
            half = decode_jpeg_gray(memoryview(data), read_jpeg_header(memoryview(data), LIMITS), reduced=True)
            assert half.shape == (-(-height // 2), -(-width // 2))


# --- within one gray level

RGB = {"keep_rgb": True}
KINDS: dict[str, dict[str, Any]] = {
    "gray": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "color 4:2:0": {"subsampling": 2},
    "color 4:4:4, progressive": {"subsampling": 0, "progressive": True},
    "stored as RGB": RGB,
}


@pytest.mark.parametrize(
    "changes", [{}, {"resize": "pad"}, {"antialias_sigma": 1.0}], ids=["stretch", "pad", "low-pass"]
)
@pytest.mark.parametrize("size", [(1_024, 1_024), (1_025, 1_024), (1_024, 1_031), (1_029, 1_035), (1_280, 2_001)])
def test_the_network_sees_the_same_film(size: tuple[int, int], changes: dict[str, Any]) -> None:
    data = encode_jpeg(film(*size))
    assert decode(data, LIMITS, network=spec(**changes)).reduced_from == size
    assert worst(data, spec(**changes)) <= (1 if "antialias_sigma" in changes else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_jpeg(kind: str) -> None:
    gray = film(1_031, 1_120)
    pixels = gray if "gray" in kind or kind in ("progressive", "restarts") else np.dstack([gray, gray // 2, 255 - gray])
    data = pillow_jpeg(pixels, **KINDS[kind])
    assert decode(data, LIMITS, network=spec()).reduced_from == (1_031, 1_120)
    assert worst(data, spec(antialias_sigma=1.0)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1_024, 1_200), (1_025, 1_201)])
def test_every_orientation(orientation: int, size: tuple[int, int]) -> None:
    data = with_segment(encode_jpeg(film(*size)), exif_segment(exif(orientation)))
    full, reduced = both(data, spec())
    height, width = size if orientation < 5 else size[::-1]
    assert (reduced.height, reduced.width) == (full.height, full.width) == (height, width)
    # where a half row or column would come first, the film is decoded in full
    assert (reduced.reduced_from is None) == (size == (1_025, 1_201) and orientation not in (1, 5))
    assert worst(data, spec(antialias_sigma=1.0)) <= 1


@pytest.mark.parametrize("side", [4_096, 4_095])
def test_at_4096_px(side: int) -> None:
    data = encode_jpeg(film(side, side))
    for size in (224, 511):
        assert decode(data, LIMITS, network=spec(size)).reduced_from == (side, side)
        assert worst(data, spec(size)) <= 1


@pytest.mark.parametrize(("size", "network"), [((2_048, 2_048), 224), ((2_049, 2_051), 255)])
def test_at_drawn_edges_few_pixels_differ_by_more(size: tuple[int, int], network: int) -> None:
    """Where black meets white from one pixel to the next, a reduced pixel that straddles the edge of a network's pixel is shared out
    wrongly. No film's own anatomy has such an edge; shutters and markers do."""
    found = difference(encode_jpeg(film(*size, edges=True)), spec(network))
    assert found.mean() < 0.2
    assert (found > 1).mean() < 0.005
    assert found.max() <= 20


def test_nearer_to_the_networks_size_it_would_not_be_the_same_film() -> None:
    """Why there is a rule at all: at 1,024 px for 224 px; and nothing can take such pixels by mistake."""
    data = encode_jpeg(film(1_024, 1_024))
    half = decode_jpeg_gray(memoryview(data), read_jpeg_header(memoryview(data), LIMITS), reduced=True)
    small = np.asarray(cv2.resize(half, (224, 224), interpolation=cv2.INTER_AREA), int)
    full = decode(data, LIMITS, network=spec(224))
    assert full.reduced_from is None
    assert np.abs(prepare(full, spec(224)).resized - small).max() > 2
    with pytest.raises(ValueError, match="decoded at half for less than 224 px"):
        prepare(replace(full, pixels=half, reduced_from=(1_024, 1_024)), spec(224))


# --- what is told about the film


@pytest.mark.parametrize("size", [(1_024, 1_280), (2_049, 1_553)])
@pytest.mark.parametrize("resize", ["pad", "stretch"])
def test_geometry_and_statistics_are_those_of_the_film(size: tuple[int, int], resize: str) -> None:
    data = encode_jpeg(film(*size))
    full, reduced = both(data, spec(resize=resize))
    assert reduced.pixels.size < full.pixels.size / 3
    assert (reduced.sha256, reduced.format) == (full.sha256, "jpeg")
    (_, geometry, plain), (_, same, found) = (resize_to_input(r, spec(resize=resize)) for r in (full, reduced))
    assert same == geometry
    assert (found.height, found.width, found.aspect) == (*size, size[1] / size[0])
    assert found.mean == pytest.approx(plain.mean, abs=0.05)
    assert found.std == pytest.approx(plain.std, abs=0.25)
    assert found.dark_fraction == pytest.approx(plain.dark_fraction, abs=0.005)
    assert found.bright_fraction == pytest.approx(plain.bright_fraction, abs=0.005)
    assert found.sharpness == pytest.approx(plain.sharpness, rel=0.01)


def test_the_limits_are_those_of_the_film() -> None:
    data = encode_jpeg(phantom(1, height=1_200, width=1_200))
    assert decode(data, ImageLimits(1_200, 1_200), network=spec()).reduced_from == (1_200, 1_200)
    for limits in (ImageLimits(1_201, 4_096), ImageLimits(1, 1_199)):
        with pytest.raises(Exception, match="px"):
            decode(data, limits, network=spec())
