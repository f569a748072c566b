"""The same picture under another name stops a run; different films do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain import Radiograph
from app.errors import ConfigurationError
from app.imaging.phantom import encode_jpeg, phantom
from app.preprocessing import resize_to_input
from tests.training.phantom_data import film, write_data
from training.data.collect import read_manifest
from training.data.films import Film
from training.data.leaks import (
    HASH_SPEC,
    Hashes,
    check_duplicates,
    film_hashes,
    pairs_across,
    pairs_within,
    perceptual_hash,
    without_copies,
)
from training.data.splits import Splits
from training.places import DEFAULT_DATA, Places

LIMIT = 20
FOLDERS: tuple[str, ...] = (
    "kermany_hires",
    "kermany_224",
    "nih_chestxray14",
    "rsna_normal",
    "tbx11k",
    "hannover_covid19",
)
FOLDERS += ("cohen_covid_chestxray",)
Pixels = NDArray[np.uint8]


def _scaled(factor: float, method: int) -> Callable[[Pixels], Pixels]:
    return lambda p: np.asarray(cv2.resize(p, None, fx=factor, fy=factor, interpolation=method), dtype=np.uint8)


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "as it is": lambda p: p,
    "half": _scaled(0.5, cv2.INTER_AREA),
    "0.6": _scaled(0.6, cv2.INTER_LINEAR),
    "one and a half": _scaled(1.5, cv2.INTER_CUBIC),
    "double": _scaled(2.0, cv2.INTER_LANCZOS4),
    "a square of 224 px": lambda p: np.asarray(cv2.resize(p, (224, 224), interpolation=cv2.INTER_AREA), dtype=np.uint8),
}


def _hash(pixels: Pixels) -> Hashes:
    return perceptual_hash(resize_to_input(Radiograph(np.ascontiguousarray(pixels), "", "jpeg"), HASH_SPEC)[0][None])


def _recompressed(pixels: Pixels, quality: int) -> Pixels:
    return np.asarray(
        cv2.imdecode(np.frombuffer(encode_jpeg(pixels, quality), np.uint8), cv2.IMREAD_GRAYSCALE), np.uint8
    )


def _apart(a: Hashes, b: Hashes) -> int:
    return int(np.bitwise_count(a ^ b).sum())


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    root = tmp_path_factory.mktemp("leaks")
    return Places(data=write_data(root / "data", patients=6), cache=root / "cache")


def _splits(places: Places, copy: str = "") -> Splits:
    """Six films to train on, two each in the other parts; `copy`: one more in the test."""
    films = read_manifest(places.data, "nih_chestxray14")[:12]
    extra = (film(copy, patient="somebody"),) if copy else ()
    return Splits(
        tuple(films[:6]), tuple(films[6:8]), tuple(films[8:10]), (*films[10:], *extra), crossing=(), left_out=()
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_has_nearly_the_same_hash_and_another_film_has_not(seed: int) -> None:
    pixels = phantom(seed, height=512, width=480)
    first = _hash(pixels)
    for name, change in COPIES.items():
        for quality in (90, 50, 30):
            assert _apart(first, _hash(_recompressed(change(pixels), quality))) <= LIMIT, (name, quality)
    for other in range(4):
        if other != seed:
            assert _apart(first, _hash(phantom(other, height=512, width=480))) > 2 * LIMIT


def test_a_hash_has_as_many_ones_as_zeros_and_knows_no_exposure() -> None:
    pixels = phantom(3)
    one = _hash(pixels)
    assert int(np.bitwise_count(one).sum()) == 128  # of 256: split by the median
    assert _apart(one, _hash((pixels * 0.7 + 20).astype(np.uint8))) <= LIMIT
    with pytest.raises(ValueError, match="64 px"):
        perceptual_hash(np.zeros((1, 32, 32), np.uint8))


def test_pairs_are_those_that_a_plain_count_finds() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (1500, 4), dtype=np.uint64)  # more than one block
    for _ in range(40):
        i, j = rng.integers(0, 1500, 2)
        hashes[i] = hashes[j] ^ np.array([rng.integers(0, 64), 0, 0, 1], np.uint64)
    hashes[11] = hashes[10]  # neighbours
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).astype(np.int32)
    apart = bits @ (1 - bits).T + (1 - bits) @ bits.T
    expected = {(int(i), int(j), int(apart[i, j])) for i, j in np.argwhere(np.triu(apart <= 7, 1))}
    assert len(expected) > 20
    assert set(pairs_within(hashes, 7)) == expected
    across = {(int(i), int(j), int(apart[i, j + 1200])) for i, j in np.argwhere(apart[:1200, 1200:] <= 7)}
    assert set(pairs_across(hashes[:1200], hashes[1200:], 7)) == across


def test_clean_splits_pass(places: Places) -> None:
    assert check_duplicates(_splits(places), places, LIMIT) == []


@pytest.mark.parametrize("quality", [90, 40])
@pytest.mark.parametrize("change", ["as it is", "half"])
def test_a_training_film_under_another_name_in_the_test_stops_the_run(
    places: Places, quality: int, change: str
) -> None:
    first = _splits(places).train[2].path
    pixels = np.asarray(cv2.imread(str(places.data / first), cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
    copy = f"elsewhere/{change.replace(' ', '-')}-{quality}.jpg"
    (places.data / "elsewhere").mkdir(exist_ok=True)
    (places.data / copy).write_bytes(encode_jpeg(COPIES[change](pixels), quality))
    with pytest.raises(ConfigurationError) as caught:
        check_duplicates(_splits(places, copy), places, LIMIT)
    assert caught.value.code == "leak"
    assert first in caught.value.message
    assert copy in caught.value.message


def test_a_duplicate_within_one_part_is_told_and_stops_nothing(places: Places) -> None:
    splits = _splits(places)
    tested = splits.test[0].path
    (places.data / "elsewhere").mkdir(exist_ok=True)
    shutil.copy(places.data / tested, places.data / "elsewhere" / "twin.jpg")
    found = check_duplicates(_splits(places, "elsewhere/twin.jpg"), places, LIMIT)
    assert [(pair.parts, pair.bits) for pair in found] == [(("test", "test"), 0)]
    assert set(found[0].paths) == {tested, "elsewhere/twin.jpg"}


def test_pre_training_sees_no_held_out_patient_duplicate_or_picture(places: Places) -> None:
    films = _splits(places).train
    held = _splits(places).test
    (places.data / "elsewhere").mkdir(exist_ok=True)
    shutil.copy(places.data / held[1].path, places.data / "elsewhere" / "again.jpg")
    same_patient = film("elsewhere/nobody-looks.jpg", patient=held[0].patient)
    copied = film("elsewhere/again.jpg", patient="somebody")
    assert without_copies([*films, same_patient, copied, held[0]], held, places, LIMIT) == list(films)
    assert without_copies(films, (), places, LIMIT) == list(films)


@pytest.mark.real_data
@pytest.mark.slow
def test_the_limit_lies_between_copies_and_other_films() -> None:
    """On the real films: known duplicates within 4 bits, no others within 40; copies within 20."""
    if not DEFAULT_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    films: list[Film] = [f for folder in FOLDERS for f in read_manifest(DEFAULT_DATA, folder)]
    hashes = film_hashes(films, Places())
    near = list(pairs_within(hashes, 2 * LIMIT))
    assert len(near) == 34
    assert all(films[i].duplicate_group == films[j].duplicate_group != "" for i, j, _ in near)
    assert max(bits for _, _, bits in near) <= 4
    for i in np.random.default_rng(0).choice(len(films), 60, replace=False):
        pixels = np.asarray(cv2.imread(str(DEFAULT_DATA / films[i].path), cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
        for change in COPIES.values():
            assert _apart(hashes[i], _hash(_recompressed(change(pixels), 40))[0]) <= LIMIT
