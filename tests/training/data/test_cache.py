from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.imaging.decode import decode
from app.preprocessing import resize_to_input
from tests.training.phantom_data import TINY, write_data
from training.data.cache import LIMITS, load_pixels
from training.data.films import read_manifest
from training.recipe import load_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), patients=4)


def test_cached_pixels_are_the_services_own(data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    spec = load_recipe(tmp_path / "r.toml").input
    films = read_manifest(data, "kermany_hires")
    pixels = load_pixels(data, films, spec, tmp_path / "cache", copies=3, seed=1)
    assert pixels.images.shape == (len(films), 3, 64, 64)
    for i, film in enumerate(films):
        radiograph = decode((data / film.path).read_bytes(), LIMITS)
        resized, _, statistics = resize_to_input(radiograph, spec)
        np.testing.assert_array_equal(pixels.plain[i], resized)
        assert pixels.statistics[i] == statistics
        assert pixels.sha256[i] == radiograph.sha256
    assert not np.array_equal(pixels.images[:, 0], pixels.images[:, 1])
    assert np.abs(pixels.images[:, 0].astype(int) - pixels.images[:, 1]).mean() < 4


def test_a_second_load_opens_no_film_and_a_new_specification_does(data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    spec = load_recipe(tmp_path / "r.toml").input
    films = read_manifest(data, "kermany_224")
    first = load_pixels(data, films, spec, tmp_path / "cache")
    again = load_pixels(tmp_path / "nowhere", films, spec, tmp_path / "cache")
    np.testing.assert_array_equal(first.images, again.images)
    assert first.digest == again.digest
    other = spec.model_copy(update={"antialias_sigma": 0.9})
    with pytest.raises(FileNotFoundError):
        load_pixels(tmp_path / "nowhere", films, other, tmp_path / "cache")


def test_the_digest_is_that_of_paths_and_files(data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    spec = load_recipe(tmp_path / "r.toml").input
    films = read_manifest(data, "kermany_224")
    forwards = load_pixels(data, films, spec, tmp_path / "cache")
    backwards = load_pixels(data, films[::-1], spec, tmp_path / "cache")
    assert forwards.digest == backwards.digest
    assert load_pixels(data, films[1:], spec, tmp_path / "cache").digest != forwards.digest
