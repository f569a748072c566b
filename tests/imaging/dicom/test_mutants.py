"""Damaged films give an answer or a coded error, and nothing else; ten thousand of them are run where the service is tested."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from app.errors import CxrError
from app.imaging.decode import ImageLimits, decode
from app.imaging.dicom.frame import FrameRequest
from tests.support.dicom_mutants import SIDE, mutant, mutants, sound_films
from tests.support.image_bytes import value_or_refusal

LIMITS = ImageLimits(min_px=SIDE, max_px=4_096)


class _Zeros:
    """Stands for the decoder processes, which have their own tests: a black frame of the form that was asked for."""

    def decode(self, request: FrameRequest) -> np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]]:
        shape = (request.rows, request.columns) + ((3,) if request.samples == 3 else ())
        return np.zeros(shape, f"u{request.bits_allocated // 8}")


@pytest.mark.parametrize("name", sound_films())
def test_the_films_that_are_damaged_are_sound(name: str) -> None:
    data = sound_films()[name]
    assert decode(data, LIMITS, _Zeros()).pixels.shape == (SIDE, SIDE)
    assert dcmread(DicomBytesIO(data)).pixel_array.shape[:2] == (SIDE, SIDE)


def test_mutants_give_an_answer_or_a_coded_error() -> None:
    answers, codes = 0, set()
    for damaged in mutants(600, seed=3):
        film = value_or_refusal(functools.partial(decode, damaged.data, LIMITS, _Zeros()))
        if isinstance(film, CxrError):
            codes.add(film.code)
        else:
            answers += 1
            assert film.pixels.dtype == np.uint8, damaged.name
    assert answers > 60
    assert codes >= {"malformed_dicom", "truncated_image", "executable_preamble", "unsupported_pixel_format"}


def test_a_mutant_can_be_made_again() -> None:
    made = list(mutants(20, seed=5))
    assert mutant(5, 17) == made[17]
    assert len({m.data for m in made}) == 20
    assert mutant(6, 17).data != made[17].data
