from __future__ import annotations

import cv2
import numpy as np
import pytest

from app.domain import Radiograph
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from training.data.film_facts import FACTS, black_border, film_facts, jpeg_quality, local_binary_patterns, texture


@pytest.mark.parametrize("quality", [25, 40, 50, 75, 88, 95, 100])
def test_the_quality_is_read_from_the_table(quality: int) -> None:
    assert jpeg_quality(encode_jpeg(phantom(1), quality)) == pytest.approx(quality, abs=1)


def test_only_jpeg_has_a_quality() -> None:
    assert jpeg_quality(encode_png(phantom(1))) is None
    assert jpeg_quality(b"\xff\xd8\xff\xdb\x00\x43\x00cut") is None
    assert jpeg_quality(b"\xff\xd8") is None


def test_a_black_border_is_its_share_of_the_area() -> None:
    film = np.full((100, 80), 120, np.uint8)
    assert black_border(film) == 0
    film[:10], film[:, 76:] = 0, 3
    assert black_border(film) == pytest.approx(1 - 90 * 76 / 8000)
    film[50] = 0  # a dark row inside is no border
    assert black_border(film) == pytest.approx(1 - 90 * 76 / 8000)
    assert black_border(np.zeros((20, 20), np.uint8)) == 1


def test_every_number_of_a_film() -> None:
    film = np.full((400, 300), 60, np.uint8)
    film[:40, :30] = 250  # a tag in a corner
    content = encode_jpeg(film, 75)
    facts = film_facts(content, Radiograph(film, "", "jpeg"), 2000)
    assert list(facts) == list(FACTS)
    assert (facts["upstream longest side"], facts["longest side"], facts["aspect ratio"]) == (2000, 400, 0.75)
    assert facts["bytes per pixel"] == len(content) / 120_000
    assert facts["brightest corner"] == 250
    assert facts["mean"] == pytest.approx(60 + 190 / 100)
    assert facts["bright share"] == pytest.approx(0.01)
    assert facts["dark share"] == 0
    unknown = film_facts(encode_png(film), Radiograph(film, "", "png"), 0)
    assert np.isnan(unknown["upstream longest side"])
    assert np.isnan(unknown["JPEG quality"])


def test_local_binary_patterns_by_hand() -> None:
    film = np.array([[9, 1, 9], [1, 5, 1], [9, 1, 5]])
    assert local_binary_patterns(film).tolist() == [[0b01010101]]
    assert local_binary_patterns(np.full((4, 5), 7)).tolist() == [[255] * 3] * 2


def test_texture_knows_blur_and_noise() -> None:
    film = phantom(2, height=448, width=448)
    blurred = np.asarray(cv2.GaussianBlur(film, (0, 0), 4), dtype=np.uint8)
    noise = np.random.default_rng(0).normal(0, 12, film.shape)
    noisy = np.clip(film + noise, 0, 255).astype(np.uint8)
    for name in ("edge strength", "sharpness", "fine detail"):
        assert texture(blurred)[name] < texture(film)[name] < texture(noisy)[name]
    assert texture(np.full((50, 60), 9, np.uint8))["LBP entropy"] == 0
    assert texture(noisy)["LBP entropy"] > 5
