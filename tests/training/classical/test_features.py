"""Histograms of oriented gradients against a loop over pixels, and thumbnails."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from training.classical.features import hog, hog_length, thumbnails
from training.classical.spec import HogPart

SMALL = HogPart(size=16, cell=4, block=2, bins=9)


def by_hand(film: NDArray[np.uint8], part: HogPart) -> NDArray[np.float64]:
    """Dalal and Triggs, one pixel at a time."""
    gray, size = film.astype(np.float64), part.size
    count = size // part.cell
    cells = np.zeros((count, count, part.bins))
    for y in range(size):
        for x in range(size):
            y0, y1, x0, x1 = max(y - 1, 0), min(y + 1, size - 1), max(x - 1, 0), min(x + 1, size - 1)
            down, right = (gray[y1, x] - gray[y0, x]) / (y1 - y0), (gray[y, x1] - gray[y, x0]) / (x1 - x0)
            place = (np.degrees(np.arctan2(down, right)) % 180) / (180 / part.bins) - 0.5
            low, share = int(np.floor(place)), place - np.floor(place)
            for at, weight in ((low, 1 - share), (low + 1, share)):
                cells[y // part.cell, x // part.cell, at % part.bins] += weight * np.hypot(down, right)
    blocks = []
    for y in range(count - part.block + 1):
        for x in range(count - part.block + 1):
            # the order within a block: bins outside, cells inside
            v = np.moveaxis(cells[y : y + part.block, x : x + part.block], 2, 0).ravel()
            v = np.minimum(v / np.sqrt(np.sum(v * v) + 1e-10), 0.2)
            blocks.append(v / np.sqrt(np.sum(v * v) + 1e-10))
    return np.concatenate(blocks)


def noise(size: int, films: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (films, size, size)).astype(np.uint8)


@pytest.mark.parametrize(
    "part", [SMALL, HogPart(size=24, cell=6, block=3, bins=6), HogPart(size=16, cell=8, block=1, bins=4)]
)
def test_hog_is_the_paper(part: HogPart) -> None:
    films = noise(part.size, 2)
    found = hog(films, part)
    assert found.shape == (2, hog_length(part))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[1], by_hand(films[1], part), atol=2e-5)


def test_a_vertical_edge_lies_between_the_first_and_last_bin() -> None:
    """Its gradient points to the right: 0 degrees, half way between the centres of bins 0 (10 degrees) and 8 (170)."""
    film = np.zeros((1, 16, 16), dtype=np.uint8)
    film[:, :, 8:] = 200
    histograms = hog(film, SMALL).reshape(-1, 9, 4)
    used = histograms.sum(axis=(0, 2)) > 1e-6
    assert np.flatnonzero(used).tolist() == [0, 8]
    np.testing.assert_allclose(histograms[:, 0], histograms[:, 8], atol=1e-6)


def test_contrast_does_not_matter_and_a_blank_film_is_zero() -> None:
    film = noise(16) // 4
    np.testing.assert_allclose(hog(film * 3, SMALL), hog(film, SMALL), atol=1e-4)
    assert not hog(np.full((1, 16, 16), 90, dtype=np.uint8), SMALL).any()


def test_films_are_resized_by_area_and_batches_do_not_matter() -> None:
    films = noise(32, 40)
    small = np.stack([cv2.resize(f, (16, 16), interpolation=cv2.INTER_AREA) for f in films])
    np.testing.assert_array_equal(hog(films, SMALL), hog(small, SMALL))
    np.testing.assert_allclose(hog(films, SMALL)[35:], hog(films[35:], SMALL), atol=1e-6)
    assert hog(films[:0], SMALL).shape == (0, hog_length(SMALL))


def test_thumbnails_are_means() -> None:
    film = np.repeat(np.repeat(noise(32), 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(thumbnails(film)[0], noise(32)[0].ravel() / 255, atol=1e-6)


def test_a_size_that_is_no_multiple_of_the_cell_is_refused() -> None:
    with pytest.raises(ValidationError, match="multiple of cell"):
        HogPart(size=100, cell=16)
    with pytest.raises(ValidationError, match="at least one block"):
        HogPart(size=16, cell=16, block=2)
