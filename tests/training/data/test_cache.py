from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import RLELossless

from app.errors import ConfigurationError
from app.imaging.decode import decode
from app.imaging.phantom import phantom
from app.preprocessing import resize_to_input
from tests.support.dicom_films import as_bytes, file_dataset
from tests.training.phantom_data import TINY, draw, write_data
from training.data.cache import LIMITS, _key, encode_jpeg, load_pixels
from training.data.collect import collect, read_manifest
from training.data.films import Film
from training.data.spec import DicomSource
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
    with pytest.raises(ConfigurationError, match=films[0].path) as caught:
        load_pixels(tmp_path / "nowhere", films, other, tmp_path / "cache")
    assert caught.value.code == "unreadable_film"


def test_the_digest_is_that_of_paths_and_files(data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    spec = load_recipe(tmp_path / "r.toml").input
    films = read_manifest(data, "kermany_224")
    forwards = load_pixels(data, films, spec, tmp_path / "cache")
    backwards = load_pixels(data, films[::-1], spec, tmp_path / "cache")
    assert forwards.digest == backwards.digest
    assert load_pixels(data, films[1:], spec, tmp_path / "cache").digest != forwards.digest


def test_a_film_that_has_changed_is_decoded_again(data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    spec = load_recipe(tmp_path / "r.toml").input
    folder = tmp_path / "data"
    shutil.copytree(data / "rsna_normal", folder / "rsna_normal")
    films = read_manifest(folder, "rsna_normal")
    before = load_pixels(folder, films, spec, tmp_path / "cache")
    (folder / films[3].path).write_bytes(encode_jpeg(draw(99, "normal"), 95))
    after = load_pixels(folder, films, spec, tmp_path / "cache")
    assert [a == b for a, b in zip(before.sha256, after.sha256, strict=True)] == [i != 3 for i in range(len(films))]
    assert not np.array_equal(before.plain[3], after.plain[3])
    np.testing.assert_array_equal(before.plain[4], after.plain[4])


def test_equally_long_films_under_one_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    spec = load_recipe(tmp_path / "r.toml").input
    found: list[Path] = []
    for hospital in ("a", "b"):
        path = tmp_path / hospital / "pacs" / "normal" / "IM1"
        path.parent.mkdir(parents=True)
        path.write_bytes(as_bytes(file_dataset(1 if hospital == "a" else 2, size=(160, 128))))
        os.utime(path, ns=(len(found), len(found)))
        found.append(path)
    assert found[0].stat().st_size == found[1].stat().st_size
    films = collect([DicomSource(folder="pacs")], tmp_path / "a")
    first = load_pixels(tmp_path / "a", films, spec, tmp_path / "cache")
    second = load_pixels(tmp_path / "b", films, spec, tmp_path / "cache")
    assert first.sha256 != second.sha256
    assert second.sha256 == (hashlib.sha256(found[1].read_bytes()).hexdigest(),)
    (made,) = (tmp_path / "cache").glob("*.npy")
    before = made.stat().st_mtime_ns
    os.utime(found[1], ns=(7, 7))  # touched, and the same
    load_pixels(tmp_path / "b", films, spec, tmp_path / "cache")
    assert made.stat().st_mtime_ns == before


def test_dicom_films_are_decoded_as_the_service_does(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    spec = load_recipe(tmp_path / "r.toml").input
    folder = tmp_path / "data" / "pacs" / "normal"
    folder.mkdir(parents=True)
    plain = file_dataset(1, size=(160, 128))
    (folder / "a.dcm").write_bytes(as_bytes(plain))
    squeezed = file_dataset(1, size=(160, 128))
    squeezed.compress(RLELossless, generate_instance_uid=False)
    (folder / "b.dcm").write_bytes(as_bytes(squeezed))
    films = collect([DicomSource(folder="pacs")], tmp_path / "data")
    pixels = load_pixels(tmp_path / "data", films, spec, tmp_path / "cache", copies=2)
    expected = resize_to_input(decode(as_bytes(plain), LIMITS), spec)[0]
    np.testing.assert_array_equal(pixels.plain[0], expected)
    np.testing.assert_array_equal(pixels.plain[1], expected)
    assert pixels.sha256[0] != pixels.sha256[1]


def test_a_film_that_is_none_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    spec = load_recipe(tmp_path / "r.toml").input
    folder = tmp_path / "data"
    shutil.copytree(data / "rsna_normal", folder / "rsna_normal")
    films = read_manifest(folder, "rsna_normal")
    (folder / films[2].path).write_bytes(b"\xff\xd8\xff no film")
    with pytest.raises(ConfigurationError, match=films[2].path) as caught:
        load_pixels(folder, films, spec, tmp_path / "cache")
    assert caught.value.code == "unreadable_film"
    with pytest.raises(ConfigurationError) as nothing:
        load_pixels(folder, [], spec, tmp_path / "cache")
    assert nothing.value.code == "no_films"


def test_large_films_are_decoded_at_half_as_in_the_service(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    plain = load_recipe(tmp_path / "r.toml").input
    spec = plain.model_copy(update={"reduced_decode": True})
    folder = tmp_path / "data" / "own" / "normal"
    folder.mkdir(parents=True)
    content = encode_jpeg(phantom(3, height=8 * spec.size + 1, width=9 * spec.size), 90)
    (folder / "a.jpg").write_bytes(content)
    films = [Film("own/normal/a.jpg", "own", "", "normal", "")]
    served = decode(content, LIMITS, network=spec)
    assert served.reduced_from == (8 * spec.size + 1, 9 * spec.size)
    cached = load_pixels(tmp_path / "data", films, spec, tmp_path / "cache")
    resized, _, statistics = resize_to_input(served, spec)
    np.testing.assert_array_equal(cached.plain[0], resized)
    assert cached.statistics[0] == statistics
    in_full = load_pixels(tmp_path / "data", films, plain, tmp_path / "cache")
    assert 0 < np.abs(in_full.plain[0].astype(int) - resized).max() <= 1


def test_a_specification_that_reduces_nothing_meets_the_caches_of_before(tmp_path: Path) -> None:
    """The key is that of a time without the field, so that nobody decodes a data set again for nothing."""
    (tmp_path / "r.toml").write_text(TINY)
    spec = load_recipe(tmp_path / "r.toml").input
    before = spec.model_dump(mode="json")
    assert before.pop("reduced_decode") is False
    content = json.dumps([1, before, ["a"], 1, 0], sort_keys=True)
    films = [Film("a", "own", "", "normal", "")]
    assert _key(films, spec, 1, 0) == hashlib.sha256(content.encode()).hexdigest()[:16]
    assert _key(films, spec.model_copy(update={"reduced_decode": True}), 1, 0) != _key(films, spec, 1, 0)
