"""The same picture on both sides of a split stops a run, whatever its name and however it was coded.

Patient ids, paths and duplicate groups are compared by `training.data.splits.check_no_leak`; here the pictures themselves. The perceptual
hash of a film is the sign pattern of its low spatial frequencies (after Zauner 2010, "pHash"): the film squashed to 64 x 64 px, its
DCT-II, the 16 x 16 coefficients of frequencies 1 to 16 in both directions (not 0: brightness and the mean row and column, which films
have in common), each larger than their median or not. Two hashes are compared by the number of different bits (Hamming distance, 0..256).

Measured on the 8,109 films of the data folder (33 million pairs): the 34 known duplicate pairs are at most 4 bits apart, the two nearest
other films 42 (one TBX11K patient, by the look of it, under two names), the next 46; every two bits more double the pairs. Of 800 films,
copies saved as JPEG at quality 30 to 90, at 128 px or at half to twice the size, are at most 18 bits from the film (median 0 to 8), with
gamma 0.8 or 1.2 at most 22; turned by one degree or cropped by 1 % at most 36, of which 20 bits find two of three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from app.bundle.input_spec import InputSpec, PerImageNormalisation
from app.errors import ConfigurationError
from training.data.cache import load_pixels
from training.data.films import Film
from training.data.splits import PARTS, Splits
from training.places import Places

HASH_SPEC = InputSpec(
    size=64,
    channels=1,
    resize="stretch",
    sixteen_bit="significant_bits",
    normalisation=PerImageNormalisation(kind="per_image", std_floor=8.0),
)
"""How a film is hashed: whatever the recipe's own input is, so that distances mean the same in every run."""
BITS = 256
_FREQUENCIES = slice(1, 17)
_BLOCK = 1024
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Duplicate:
    """Two films that show the same picture: their parts and paths, and how many of the 256 bits differ."""

    parts: tuple[str, str]
    paths: tuple[str, str]
    bits: int


def perceptual_hash(films: NDArray[np.uint8]) -> Hashes:
    """uint64 [N, 4] of uint8 [N, 64, 64]: 256 bits each. Raises ValueError for films of another size."""
    if films.shape[1:] != (HASH_SPEC.size, HASH_SPEC.size):
        raise ValueError(f"films are hashed at {HASH_SPEC.size} px, not {films.shape[1:]}")
    signs = np.empty((len(films), BITS), dtype=np.bool_)
    for i, film in enumerate(films):
        low = cv2.dct(np.asarray(film, dtype=np.float32))[_FREQUENCIES, _FREQUENCIES].ravel()
        signs[i] = low > np.median(low)
    return np.packbits(signs, axis=1).view(np.uint64)


def film_hashes(films: Sequence[Film], places: Places) -> Hashes:
    """uint64 [N, 4], from the cache or from the films, decoded now (3 to 10 ms each)."""
    return perceptual_hash(load_pixels(places.data, films, HASH_SPEC, places.cache).plain)


def pairs_within(hashes: Hashes, bits: int) -> Iterator[tuple[int, int, int]]:
    """(i, j, distance) for i < j with at most `bits` different bits; 8,000 films (32 million pairs) take about a second."""
    for start in range(0, len(hashes), _BLOCK):
        rows = hashes[start : start + _BLOCK]
        near, distance = _near(rows, hashes[start:], bits)
        for i, j in near:
            if j > i:
                yield start + int(i), start + int(j), int(distance[i, j])


def pairs_across(first: Hashes, second: Hashes, bits: int) -> Iterator[tuple[int, int, int]]:
    """(i, j, distance) for film i of the first and j of the second set with at most `bits` different bits."""
    for start in range(0, len(first), _BLOCK):
        near, distance = _near(first[start : start + _BLOCK], second, bits)
        for i, j in near:
            yield start + int(i), int(j), int(distance[i, j])


def _near(rows: Hashes, columns: Hashes, bits: int) -> tuple[NDArray[np.intp], NDArray[np.uint16]]:
    """Index pairs [P, 2] within reach, and all distances [R, C]."""
    distance = np.zeros((len(rows), len(columns)), dtype=np.uint16)
    for word in range(rows.shape[1]):
        distance += np.bitwise_count(rows[:, word, None] ^ columns[None, :, word])
    return np.argwhere(distance <= bits), distance


def find_duplicates(parts: Mapping[str, Sequence[Film]], places: Places, bits: int) -> list[Duplicate]:
    """Films of one or two parts that show the same picture, the most alike first."""
    hashes = {name: film_hashes(films, places) for name, films in parts.items() if films}
    found = [
        Duplicate((name, name), (parts[name][i].path, parts[name][j].path), d)
        for name in hashes
        for i, j, d in pairs_within(hashes[name], bits)
    ]
    found += [
        Duplicate((a, b), (parts[a][i].path, parts[b][j].path), d)
        for a, b in combinations(hashes, 2)
        for i, j, d in pairs_across(hashes[a], hashes[b], bits)
    ]
    return sorted(found, key=lambda pair: (pair.bits, pair.paths))


def check_duplicates(splits: Splits, places: Places, bits: int) -> list[Duplicate]:
    """Returns the duplicates that stand within one part: they count twice there, but nothing leaks.

    The test films are hashed too: a leak into them must stop a run before it starts. Nothing else of them is looked at.

    Raises:
        ConfigurationError: `leak` where films of two parts have hashes that differ in at most `bits` bits; names both paths.
    """
    found = find_duplicates({name: getattr(splits, name) for name in PARTS}, places, bits)
    leaks = [pair for pair in found if pair.parts[0] != pair.parts[1]]
    if leaks:
        worst = leaks[0]
        raise ConfigurationError(
            "leak",
            f"{worst.paths[0]} ({worst.parts[0]}) and {worst.paths[1]} ({worst.parts[1]}) show the same picture "
            f"({worst.bits} of {BITS} bits differ; {len(leaks)} such pairs): give them one patient id or dup_group, or take one out",
        )
    return found


def without_copies(films: Sequence[Film], held_out: Sequence[Film], places: Places, bits: int) -> list[Film]:
    """The films of which no patient, duplicate group or picture is among `held_out`; for pre-training."""
    patients = {f.patient for f in held_out} - {""}
    groups = {f.duplicate_group for f in held_out} - {""}
    paths = {f.path for f in held_out}
    left = [f for f in films if f.path not in paths and f.patient not in patients and f.duplicate_group not in groups]
    if not left or not held_out:
        return left
    seen = {i for i, _, _ in pairs_across(film_hashes(left, places), film_hashes(held_out, places), bits)}
    return [film for i, film in enumerate(left) if i not in seen]
