"""The display pipeline: hand-worked numbers, pydicom's functions as an independent implementation, and properties of windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

from app.domain import FilmDisplay, VoiFunction
from app.errors import ImageError
from app.imaging.decode import ImageLimits, decode
from app.imaging.dicom.luts import Window, percentile_window, window
from tests.support.dicom_films import as_bytes, file_dataset

LIMITS = ImageLimits(min_px=1, max_px=4_096)


def ramp(bits: int, *, signed: bool = False) -> NDArray[Any]:
    """Every value of `bits`, once, as [2^bits / 64, 64]."""
    low = -(1 << bits - 1) if signed else 0
    kind = ("i" if signed else "u") + ("1" if bits == 8 else "2")
    return np.arange(low, low + (1 << bits)).astype(kind).reshape(-1, 64)


def shown(pixels: NDArray[Any], bits: int, **attributes: Any) -> NDArray[np.uint8]:
    """Display values of a film with these stored values; no window unless given."""
    data = dataset(pixels, bits, **attributes)
    return np.asarray(decode(as_bytes(data), LIMITS).pixels, np.uint8)


def dataset(pixels: NDArray[Any], bits: int, **attributes: Any) -> Dataset:
    return file_dataset(1, pixels=pixels, bits_stored=bits, **{"WindowCenter": None, "WindowWidth": None, **attributes})


def lut(table: list[int], first: int, bits: int, vr: str = "US") -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(table) % 65_536, first, bits]
    item["LUTDescriptor"].VR = vr
    item.LUTData = np.array(table, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return Sequence([item])


def code(pixels: NDArray[Any], bits: int, **attributes: Any) -> str:
    with pytest.raises(ImageError) as refusal:
        shown(pixels, bits, **attributes)
    return refusal.value.code


# --- windows


@pytest.mark.parametrize(
    ("function", "stored", "gray"),
    [
        # PS3.3 C.11.2.1.2.1, c = 2048, w = 4096: y = (x - 2047.5) / 4095 + 0.5, so x = y * 4095
        ("LINEAR", [0, 1, 2_047, 2_048, 4_094, 4_095], [0, 0, 127, 128, 255, 255]),
        # C.11.2.1.3.2, the same numbers: y = x / 4096
        ("LINEAR_EXACT", [0, 8, 9, 2_048, 4_087, 4_088], [0, 0, 1, 128, 254, 255]),
        # C.11.2.1.3.1: 255 / (1 + exp(-4 (x - 2048) / 4096))
        ("SIGMOID", [0, 1_024, 2_048, 3_072, 4_095], [30, 69, 128, 186, 225]),
    ],
)
def test_window_functions_by_hand(function: str, stored: list[int], gray: list[int]) -> None:
    display = shown(ramp(12), 12, WindowCenter=2_048, WindowWidth=4_096, VOILUTFunction=function).ravel()
    assert display[stored].tolist() == gray


def test_a_narrow_window_by_hand() -> None:
    """c = 100, w = 11: 0 up to 94.5, full above 104.5, else (x - 99.5) / 10 + 0.5."""
    display = shown(ramp(12), 12, WindowCenter=100, WindowWidth=11).ravel()
    assert display[93:107].tolist() == [0, 0, 13, 38, 64, 89, 115, 140, 166, 191, 217, 242, 255, 255]


def test_a_window_of_one_is_a_step() -> None:
    display = shown(ramp(12), 12, WindowCenter=100, WindowWidth=1).ravel()
    assert display[[98, 99, 100, 101]].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (10, False), (12, True), (16, False), (16, True)])
def test_windows_as_pydicom_applies_them(function: str, bits: int, signed: bool) -> None:
    pixels = ramp(bits, signed=signed)
    full = float(1 << bits)
    center, width = (0.0 if signed else full / 2) + full / 7, full / 3
    data = dataset(pixels, bits, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    low, high = (-full / 2, full / 2 - 1) if signed else (0.0, full - 1)
    expected = (apply_voi_lut(pixels, data).astype(np.float64) - low) / (high - low) * 255
    assert np.abs(decode(as_bytes(data), LIMITS).pixels - expected).max() <= 0.5 + 1e-6


def test_the_first_of_several_windows_is_taken() -> None:
    one = shown(ramp(12), 12, WindowCenter=1_000, WindowWidth=500)
    two = shown(ramp(12), 12, WindowCenter=[1_000, 30], WindowWidth=[500, 40], WindowCenterWidthExplanation=["A", "B"])
    assert np.array_equal(one, two)


_numbers = st.floats(-70_000, 70_000, allow_nan=False)


@settings(max_examples=300)
@given(center=_numbers, width=st.floats(1, 100_000), function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
def test_windows_rise_and_stay_in_range(center: float, width: float, function: VoiFunction) -> None:
    values = np.linspace(-65_536, 65_536, 999)
    gray = window(values, Window(center, width, function))
    assert gray.min() >= 0
    assert gray.max() <= 1
    assert np.diff(gray).min() >= -1e-12


@settings(max_examples=200)
@given(center=st.integers(-3_000, 3_000), width=st.integers(2, 5_000))
def test_linear_reaches_black_and_white_exactly_where_the_standard_says(center: int, width: int) -> None:
    values = np.arange(-10_000.0, 10_001.0)
    gray = window(values, Window(center, width, "LINEAR"))
    assert np.array_equal(gray == 0, values <= center - 0.5 - (width - 1) / 2)
    assert np.array_equal(gray == 1, values >= center - 0.5 + (width - 1) / 2)


@settings(max_examples=100)
@given(center=_numbers, width=st.floats(0.01, 100_000))
def test_sigmoid_is_symmetric_and_half_at_its_center(center: float, width: float) -> None:
    away = np.array([0.0, 0.1, 1.0, 3.0]) * width
    sigmoid = Window(center, width, "SIGMOID")
    right, left = window(center + away, sigmoid), window(center - away, sigmoid)
    assert right[0] == 0.5
    assert np.allclose(right + left, 1.0, atol=1e-9)


# --- modality


def test_rescale_comes_before_the_window() -> None:
    """x = 2 s - 1000; c = 0, w = 2001: y = (x + 0.5) / 2000 + 0.5, so stored 500 is 0.50025 and 250 is 0.25025."""
    display = shown(ramp(12), 12, RescaleSlope=2, RescaleIntercept=-1_000, WindowCenter=0, WindowWidth=2_001).ravel()
    assert display[[0, 250, 500, 750, 1_000]].tolist() == [0, 64, 128, 191, 255]


def test_a_negative_slope_turns_the_film() -> None:
    display = shown(ramp(12), 12, RescaleSlope=-1, RescaleIntercept=4_095, WindowCenter=2_048, WindowWidth=4_096)
    assert np.array_equal(display, shown(ramp(12), 12, WindowCenter=2_048, WindowWidth=4_096)[::-1, ::-1])


@pytest.mark.parametrize(("first", "signed"), [(0, False), (100, False), (-50, True)])
def test_modality_and_voi_lut_as_pydicom_applies_them(first: int, signed: bool) -> None:
    rng = np.random.default_rng(2)
    data = dataset(ramp(12, signed=signed), 12)
    modality = np.sort(rng.integers(0, 1_024, 300)).tolist()
    voi = np.sort(rng.integers(0, 4_096, 700)).tolist()
    data.ModalityLUTSequence = lut(modality, first, 16, "SS" if signed else "US")
    data.VOILUTSequence = lut(voi, 150, 12)
    pixels = ramp(12, signed=signed)
    expected = apply_voi_lut(apply_modality_lut(pixels, data), data).astype(np.float64) / 4_095 * 255
    film = decode(as_bytes(data), LIMITS)
    assert film.acquisition is not None
    assert film.acquisition.display == "voi_lut"
    assert np.abs(film.pixels - expected).max() <= 0.5 + 1e-9


def test_a_lut_by_hand() -> None:
    """Four entries from stored value 10 on; 8-bit output; below and above the ends count as the ends (C.11.2.1.1)."""
    display = shown(ramp(12), 12, VOILUTSequence=lut([5, 100, 200, 250], 10, 8)).ravel()
    assert display[[0, 9, 10, 11, 12, 13, 14, 4_095]].tolist() == [5, 5, 5, 100, 200, 250, 250, 250]


def test_packed_eight_bit_entries() -> None:
    item = Dataset()
    item.LUTDescriptor = [5, 0, 8]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = bytes([1, 2, 3, 4, 9, 0])
    item["LUTData"].VR = "OW"
    assert shown(ramp(12), 12, VOILUTSequence=Sequence([item])).ravel()[:6].tolist() == [1, 2, 3, 4, 9, 9]


def test_a_lut_of_65536_entries() -> None:
    table = (65_535 - np.arange(65_536)).tolist()
    display = shown(ramp(16), 16, VOILUTSequence=lut(table, 0, 16)).ravel()
    assert np.array_equal(display, np.rint((65_535 - np.arange(65_536)) / 257).astype(np.uint8))


def test_the_lut_goes_before_the_window() -> None:
    table = lut([0, 4_095], 0, 12)
    with_both = shown(ramp(12), 12, VOILUTSequence=table, WindowCenter=2_048, WindowWidth=4_096)
    assert np.array_equal(with_both, shown(ramp(12), 12, VOILUTSequence=table))


# --- presentation


_WINDOW = {"WindowCenter": 2_048, "WindowWidth": 4_096}


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False), ("MONOCHROME2", "IDENTITY", False), ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, True), ("MONOCHROME1", "INVERSE", True), ("MONOCHROME1", "IDENTITY", True),
    ],
)  # fmt: skip
def test_inversion_happens_once(photometric: str, shape: str | None, inverted: bool) -> None:
    more = {} if shape is None else {"PresentationLUTShape": shape}
    display = shown(ramp(12), 12, PhotometricInterpretation=photometric, **_WINDOW, **more)
    plain = shown(ramp(12), 12, **_WINDOW)
    assert np.abs(display - (255.0 - plain if inverted else plain)).max() <= 1  # rounding of halves
    assert int(display[0, 0]) == (255 if inverted else 0)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_either_way(photometric: str) -> None:
    display = shown(ramp(12), 12, PhotometricInterpretation=photometric, PixelPaddingValue=3_000, **_WINDOW).ravel()
    assert display[3_000] == 0
    assert display[2_999] > 0
    assert display[3_001] > 0


def test_padding_range_has_both_ends() -> None:
    for ends in ((3_000, 3_100), (3_100, 3_000)):
        display = shown(ramp(12), 12, PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1], **_WINDOW).ravel()
        assert np.flatnonzero(display == 0).tolist() == [*range(9), *range(3_000, 3_101)]


def test_negative_padding_and_a_wrong_vr() -> None:
    data = dataset(ramp(16, signed=True), 16, PixelPaddingValue=-2_000, WindowCenter=0, WindowWidth=65_536)
    film = decode(as_bytes(data), LIMITS).pixels.ravel()
    assert film[32_768 - 2_000] == 0
    assert film[32_768 - 1_999] > 100
    del data.PixelPaddingValue
    data.add_new(0x00280120, "US", 63_536)  # -2000 as many writers put it
    assert np.array_equal(decode(as_bytes(data), LIMITS).pixels.ravel(), film)


# --- the default, where a header has no VOI


def test_the_default_range_by_hand() -> None:
    """1,000 pixels: values 0..999 once each. 0.5 % do not exceed 4, 99.5 % do not exceed 994."""
    counts = np.zeros(4_096, np.int64)
    counts[:1_000] = 1
    found = percentile_window(np.arange(4_096.0), counts)
    assert found is not None
    gray = window(np.arange(4_096.0), found)
    assert gray[[0, 4, 499, 994, 999]].tolist() == [0, 0, 0.5, 1, 1]


def test_the_default_leaves_padding_out() -> None:
    rng = np.random.default_rng(1)
    film = rng.integers(1_000, 1_200, (128, 128)).astype(np.uint16)
    film[:, :100] = 0
    with_padding = shown(film, 12, PixelPaddingValue=0)
    assert np.array_equal(with_padding[:, 100:], shown(film[:, 100:].copy(), 12))
    assert not with_padding[:, :100].any()
    assert shown(film, 12)[:, 100:].min() > 200


def test_the_default_of_odd_films() -> None:
    assert not shown(np.full((128, 128), 77, np.uint16), 12).any()
    assert not shown(np.full((128, 128), 77, np.uint16), 12, PixelPaddingValue=77).any()
    spike = np.full((128, 128), 77, np.uint16)
    spike[5, 5] = 99
    assert shown(spike, 12)[5, 5] == 255
    assert shown(spike, 12)[6, 6] == 0


def test_the_default_follows_the_modality_values() -> None:
    display = shown(ramp(12), 12, RescaleSlope=-1, RescaleIntercept=0)
    assert display[0, 0] == 255
    assert display[-1, -1] == 0


def test_eight_bits_without_any_voi_are_display_values_already() -> None:
    film = np.tile(np.arange(60, 188, dtype=np.uint8), (128, 1))
    assert np.array_equal(shown(film, 8), film)
    assert np.array_equal(shown(film, 8, RescaleSlope=1, RescaleIntercept=0), film)
    assert np.array_equal(shown(film, 8, PhotometricInterpretation="MONOCHROME1"), 255 - film)
    assert shown(film, 8, RescaleSlope=2, RescaleIntercept=0).max() == 255


# --- stored values


def test_bits_above_the_stored_ones_do_not_count() -> None:
    """An overlay in bits 12 to 15 (retired in DICOM 2004) is no brightness."""
    film = ramp(12)
    assert np.array_equal(shown(film | 0x7000, 12, **_WINDOW), shown(film, 12, **_WINDOW))


@pytest.mark.parametrize("bits", [8, 9, 12, 15, 16])
def test_signed_values_are_extended_from_their_own_highest_bit(bits: int) -> None:
    half = 1 << bits - 1
    patterns = (np.arange(-half, half) & (2 * half - 1)).astype(np.uint16).reshape(-1, 64)
    window_of = {"WindowCenter": 0, "WindowWidth": 2 * half}
    data = dataset(patterns, bits, PixelRepresentation=1, **window_of)
    signed = decode(as_bytes(data), LIMITS).pixels.ravel()
    assert np.all(np.diff(signed.astype(int)) >= 0)
    assert (signed[0], signed[half], signed[-1]) == (0, 128, 255)


def test_refusals() -> None:
    assert code(ramp(12), 12, WindowCenter=1, WindowWidth=0) == "malformed_dicom"
    assert code(ramp(12), 12, VOILUTFunction="CUBIC", **_WINDOW) == "malformed_dicom"
    assert code(ramp(12), 12, PresentationLUTShape="LIN OD") == "unsupported_pixel_format"


# --- what a presentation state may say


def test_the_display_is_told_as_rescale_and_window() -> None:
    def told(**attributes: Any) -> FilmDisplay | None:
        return decode(as_bytes(dataset(ramp(12), 12, **attributes)), LIMITS).display

    plain = told(WindowCenter=300, WindowWidth=200, VOILUTFunction="SIGMOID", RescaleSlope=2, RescaleIntercept=-5)
    assert plain == FilmDisplay(2, -5, 300, 200, "SIGMOID", inverse=False)
    assert told(PhotometricInterpretation="MONOCHROME1") == (
        FilmDisplay(1, 0, 2_047.5, 4_055, "LINEAR_EXACT", inverse=True)
    )
    assert told(VOILUTSequence=lut([0, 255], 0, 8)) is None
    assert told(ModalityLUTSequence=lut(list(range(4_096)), 0, 16)) is None
