from __future__ import annotations

import cv2
import numpy as np
import pytest

from app.results import make
from app.results.secondary_capture import lettered
from tests.results import readback, samples


def test_the_picture_stands_unchanged_between_the_bars() -> None:
    picture = samples.overlay(700, 600)
    made = lettered(picture, ("one",), ("two", "three"))
    assert made.shape[1] == 600
    (top,) = [y for y in range(made.shape[0] - 699) if np.array_equal(made[y : y + 700], picture)]
    above, below = made[:top], made[top + 700 :]
    assert above.any(), "no text above"
    assert below.any(), "no text below"
    assert top < below.shape[0] < 200


def test_the_first_line_is_amber_and_the_rest_white() -> None:
    made = lettered(np.zeros((600, 600, 3), np.uint8), ("line",), ("line",))
    assert set(map(tuple, made[made.any(axis=2)].astype(int) // 250 * 250)) >= {(250, 0, 0), (250, 250, 250)}


@pytest.mark.parametrize(("height", "width"), [(40, 30), (512, 448), (30, 511)])
def test_a_small_picture_is_enlarged_so_that_the_text_can_be_read(height: int, width: int) -> None:
    made = lettered(samples.overlay(height, width), ("one",), ())
    assert made.shape[1] == 512
    assert made.shape[0] > round(height * 512 / width)


@pytest.mark.parametrize("width", [512, 1024, 3000])
def test_the_longest_line_fits(width: int) -> None:
    """Text that ran out of the picture would leave the last columns lit."""
    made = lettered(np.zeros((8, width, 3), np.uint8), ("M" * 150,), ())
    assert made.any()
    assert not made[:, -2:].any()


def test_what_the_file_says() -> None:
    report = samples.report()
    data = readback.dataset(make("sc", report))
    assert (data.Modality, data.ConversionType, data.BurnedInAnnotation) == ("OT", "WSD", "YES")
    assert list(data.ImageType) == ["DERIVED", "SECONDARY"]
    assert data.DerivationDescription.startswith("AI overlay - not for diagnosis. gradcam map of pneumonia by")
    assert (data.PhotometricInterpretation, data.SamplesPerPixel, data.BitsStored) == ("RGB", 3, 8)
    assert list(data.PatientOrientation) == ["L", "F"]
    assert (data.DateOfSecondaryCapture, data.TimeOfSecondaryCapture) == ("20260203", "040506")


def test_the_pixels_are_those_that_were_drawn() -> None:
    data = readback.dataset(make("sc", samples.report()))
    picture = samples.overlay()
    high = round(512 * 512 / 448)
    enlarged = cv2.resize(picture, (512, high), interpolation=cv2.INTER_LINEAR)
    pixels = data.pixel_array
    assert any(np.array_equal(pixels[y : y + high], enlarged) for y in range(pixels.shape[0] - high + 1))


def test_nothing_about_the_patient_is_in_the_pixels() -> None:
    """Two patients with the same film have the same pixels."""
    mine, other = (
        readback.dataset(make("sc", samples.report(source=samples.SOURCES[name]))) for name in ("plain", "odd")
    )
    assert mine.PixelData == other.PixelData
    assert mine.PatientName != other.PatientName


def test_a_restriction_has_a_line_of_its_own_above_the_picture() -> None:
    plain, restricted = (
        readback.dataset(make("sc", samples.report(restriction=words))).pixel_array for words in (None, "research-only")
    )
    more = restricted.shape[0] - plain.shape[0]
    assert more > 0
    assert np.array_equal(plain[-400:], restricted[-400:])
