from __future__ import annotations

import numpy as np
import pytest

from app.imaging.phantom import phantom
from training.judging.corruptions import (
    KINDS,
    SEVERITIES,
    SUITE,
    SUITE_SEVERITIES,
    corrupt,
    corrupt_all,
    degrade,
    degrade_all,
)

FILMS = np.stack([phantom(seed, height=128, width=128) for seed in range(12)])
NAMES = [f"f{i}" for i in range(12)]
FIXED = {
    "exposure": [2413780, 2805514, 1210150],
    "contrast": [2182151, 2288870, 1985592],
    "gamma": [2312503, 2582988, 1189121],
    "crop": [2090824, 2101237, 2189445],
    "blur": [2035795, 2036824, 2038902],
}


@pytest.mark.parametrize("kind", KINDS)
def test_harder_levels_change_more(kind: str) -> None:
    changes = [np.abs(corrupt_all(FILMS, kind, s, NAMES).astype(float) - FILMS).mean() for s in SEVERITIES]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_decides_direction_and_place(kind: str) -> None:
    once = corrupt(FILMS[0], kind, 2, "a")
    assert once.dtype == np.uint8
    assert once.shape == FILMS[0].shape
    np.testing.assert_array_equal(once, corrupt(FILMS[0], kind, 2, "a"))
    if kind != "blur":
        others = {corrupt(FILMS[0], kind, 2, name).tobytes() for name in NAMES}
        assert len(others) >= 2


def test_the_fixed_values_have_not_moved() -> None:
    """The hard validation was fixed before training; these sums change if anyone changes it."""
    sums = {kind: [int(corrupt(FILMS[0], kind, s, "fixed").sum()) for s in SEVERITIES] for kind in KINDS}
    assert sums == {kind: pytest.approx(values, rel=1e-4) for kind, values in FIXED.items()}


@pytest.mark.parametrize("kind", SUITE)
def test_each_severity_of_the_suite_changes_more(kind: str) -> None:
    """On average, and for nearly every single film (a crop may by chance meet itself again)."""
    differences = np.stack(
        [np.abs(degrade_all(FILMS, kind, s, NAMES).astype(float) - FILMS).mean(axis=(1, 2)) for s in SUITE_SEVERITIES]
    )
    assert (differences.mean(axis=1)[0]) > 0
    assert np.all(np.diff(differences.mean(axis=1)) > 0)
    assert np.mean(np.diff(differences, axis=0) > 0) > 0.9


@pytest.mark.parametrize("kind", SUITE)
def test_the_suite_is_seeded_by_the_path(kind: str) -> None:
    once = degrade(FILMS[0], kind, 3, "a")
    assert once.dtype == np.uint8
    assert once.shape == FILMS[0].shape
    np.testing.assert_array_equal(once, degrade(FILMS[0], kind, 3, "a"))
    if kind in {"brightness", "contrast", "noise", "rotation", "crop"}:
        assert len({degrade(FILMS[0], kind, 3, name).tobytes() for name in NAMES}) >= 2


def test_the_last_inversion_is_the_negative_film() -> None:
    np.testing.assert_array_equal(degrade(FILMS[0], "inversion", 5, "a"), 255 - FILMS[0])


def test_unknown_kinds_and_levels_are_refused() -> None:
    with pytest.raises(KeyError):
        corrupt(FILMS[0], "rain", 1, "a")
    with pytest.raises(ValueError, match="severity 4"):
        corrupt(FILMS[0], "blur", 4, "a")
    with pytest.raises(KeyError):
        degrade(FILMS[0], "rain", 1, "a")
    with pytest.raises(ValueError, match="severity 6"):
        degrade(FILMS[0], "blur", 6, "a")
