"""Pictures to fit against and to measure on: repeatable, of many kinds, and not the same kinds."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from app.imaging.phantom import phantom
from training.gate import exposure, probes


def _kinds(pictures: list[NDArray[np.uint8]]) -> set[str]:
    return {hashlib.sha256(p.tobytes()).hexdigest() for p in pictures}


def test_drawn_pictures_are_repeatable_and_different() -> None:
    pictures = [exposure.drawn(seed, 64) for seed in range(60)]
    assert all(p.shape == (64, 64) and p.dtype == np.uint8 for p in pictures)
    assert len(_kinds(pictures)) == 60
    assert np.array_equal(exposure.drawn(17, 64), pictures[17])
    assert sum(float(p.std()) > 5 for p in pictures) > 50


def test_pictures_made_of_a_film_are_not_the_film() -> None:
    film = np.ascontiguousarray(phantom(1, height=160, width=160))
    before = film.copy()
    pictures = [exposure.made_of(film, np.random.default_rng(seed)) for seed in range(60)]
    assert all(p.shape == film.shape and p.dtype == np.uint8 for p in pictures)
    assert all(np.abs(p.astype(int) - film).mean() > 5 for p in pictures)
    assert np.array_equal(film, before)
    assert np.array_equal(exposure.made_of(film, np.random.default_rng(5)), pictures[5])


@pytest.mark.parametrize("exponent", [0.0, 4.0])
def test_noise_has_the_spectrum_it_is_meant_to_have(exponent: float) -> None:
    class Fixed(np.random.Generator):
        """Uniform draws in the middle of their range, but for the exponent of the amplitude."""

        def uniform(self, low: float = 0.0, high: float = 1.0, size: object = None) -> float:  # type: ignore[override]
            return exponent / 2 if (low, high) == (0, 2) else (low + high) / 2

    picture = exposure.noise(Fixed(np.random.PCG64(1)), 128).astype(float)
    power = np.abs(np.fft.fft2(picture - picture.mean())) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    low, high = (power[(radius > a) & (radius < 2 * a)].mean() for a in (0.03, 0.12))
    assert np.log2(low / high) / 2 == pytest.approx(exponent, abs=0.7)  # the two bands are two octaves apart


def test_probes_are_repeatable_and_of_many_sizes() -> None:
    pictures = probes.generated(3, count=4)
    assert len(pictures) == 7
    again = probes.generated(3, count=4)
    assert all(np.array_equal(a, b) for kind in pictures for a, b in zip(pictures[kind], again[kind], strict=True))
    assert len({p.shape for p in pictures["pages of text"]}) == 4
    assert all(p.ndim == 2 and p.dtype == np.uint8 for found in pictures.values() for p in found)


def test_photographs_come_with_the_libraries_of_the_train_extra() -> None:
    pictures = probes.photographs(1, count=5)
    assert len(pictures) == 8
    assert all(float(p.std()) > 5 for p in pictures[:3])
