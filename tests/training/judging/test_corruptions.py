from __future__ import annotations

import numpy as np
import pytest

from app.imaging.phantom import phantom
from training.judging.corruptions import KINDS, SEVERITIES, corrupt, corrupt_all

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


def test_unknown_kinds_and_levels_are_refused() -> None:
    with pytest.raises(KeyError):
        corrupt(FILMS[0], "rain", 1, "a")
    with pytest.raises(ValueError, match="severity 4"):
        corrupt(FILMS[0], "blur", 4, "a")
