"""Every DICOM file under ../shared/data/dicom: an answer or a coded refusal, and which (pixels are compared where pydicom can)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from app.errors import CxrError
from app.imaging.decode import ImageLimits, decode
from app.imaging.dicom.decoders import DecoderPool
from tests.support.image_bytes import value_or_refusal

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "data" / "dicom"
LIMITS = ImageLimits(min_px=64, max_px=4_096)
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data is not here"),
]

# how stored values become gray levels, or the code of the refusal
EXPECTED = {
    "CR-ModalitySequenceLUT.dcm": "percentile", "CT_small.dcm": "percentile", "ExplVR_BigEnd.dcm": "too_small",
    "MR_small_RLE.dcm": "window_linear", "MR_small_bigendian.dcm": "window_linear", "MR_truncated.dcm": "truncated_image",
    "RG1_J2KI.dcm": "window_linear", "RG2_JPLY.dcm": "window_linear", "RG3_JLSL.dcm": "window_linear",
    "SC_rgb_jpeg_dcmtk.dcm": "full_range",
    "bad_sequence_ct.dcm": "window_linear", "chrJapMulti_no_pixels.dcm": "dicom_without_image",
    "emri_small_multiframe.dcm": "multi_frame_image", "gdcm-CR-MONO1-10-chest.dcm": "window_linear", "image_dfl.dcm": "full_range",
    "meta_missing_tsyntax.dcm": "malformed_dicom", "mlut_18.dcm": "percentile", "no_meta.dcm": "unsupported_format",
    "rsna_16d7f894_mono1_tag_only.dcm": "full_range", "rsna_16d7f894_mono2.dcm": "full_range", "rtplan.dcm": "dicom_without_image",
    "structured_report_no_pixels.dcm": "dicom_without_image", "udacity_test1.dcm": "full_range",
    "udacity_test4_bodypart_ribcage.dcm": "full_range", "udacity_test5_modality_ct.dcm": "full_range",
    "udacity_test6_position_xx.dcm": "full_range", "vlut_04.dcm": "voi_lut",
}  # fmt: skip
WINDOWED = (
    "MR_small_bigendian.dcm",
    "RG1_J2KI.dcm",
    "RG3_JLSL.dcm",
    "bad_sequence_ct.dcm",
    "gdcm-CR-MONO1-10-chest.dcm",
)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(1, 60.0, 2_000_000_000)
    yield pool
    pool.close()


def test_the_table_names_every_file() -> None:
    assert {path.name for path in FOLDER.glob("*.dcm")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_real_file(name: str, pool: DecoderPool) -> None:
    data = (FOLDER / name).read_bytes()
    film = value_or_refusal(lambda: decode(data, LIMITS, pool))
    if isinstance(film, CxrError):
        assert film.code == EXPECTED[name]
        return
    assert film.acquisition is not None
    assert film.acquisition.display == EXPECTED[name]
    assert film.pixels.std() > 5
    assert pool.restarts == 0


@pytest.mark.parametrize("name", WINDOWED)
def test_pixels_as_pydicom_shows_them(name: str, pool: DecoderPool) -> None:
    data = (FOLDER / name).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        film = pydicom.dcmread(io.BytesIO(data))
        stored = film.pixel_array
        shown = apply_voi_lut(apply_modality_lut(stored, film), film).astype(np.float64)
        slope, intercept = float(film.get("RescaleSlope", 1)), float(film.get("RescaleIntercept", 0))
    low = (-(2.0 ** (film.BitsStored - 1)) if film.PixelRepresentation else 0.0) * slope + intercept
    gray = (shown - low) / ((2.0**film.BitsStored - 1) * slope) * 255
    if film.PhotometricInterpretation == "MONOCHROME1":
        gray = 255 - gray
    assert np.abs(decode(data, LIMITS, pool).pixels - gray).max() <= 0.5 + 1e-6


def test_one_tag_turns_the_film(pool: DecoderPool) -> None:
    plain, turned = (
        decode((FOLDER / f"rsna_16d7f894_{name}.dcm").read_bytes(), LIMITS, pool).pixels
        for name in ("mono2", "mono1_tag_only")
    )
    assert np.array_equal(turned, 255 - plain)
