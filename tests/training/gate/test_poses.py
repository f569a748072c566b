"""Films turned, inverted and cropped mean what the manifest says they mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.gate.poses import CROPPED, POSES, turned, turned_pixels, window

FILM = np.array([[1, 2], [3, 4]], np.uint8)


@pytest.mark.parametrize(
    ("pose", "expected"),
    [
        ("upright", [[1, 2], [3, 4]]),
        ("rotated_90", [[3, 1], [4, 2]]),  # clockwise: the left column becomes the top row
        ("rotated_180", [[4, 3], [2, 1]]),
        ("rotated_270", [[2, 4], [1, 3]]),
        ("inverted", [[254, 253], [252, 251]]),
        ("inverted_rotated_90", [[252, 254], [251, 253]]),
        ("inverted_rotated_270", [[253, 251], [254, 252]]),
    ],
)
def test_each_pose_by_hand(pose: str, expected: list[list[int]]) -> None:
    assert turned_pixels(FILM, pose).tolist() == expected  # type: ignore[arg-type]  # a list of literals


def test_batches_are_turned_as_single_films_are() -> None:
    films = torch.arange(8 * 9, dtype=torch.float32).view(8, 1, 3, 3)
    result = turned(films, torch.arange(8))
    for i, pose in enumerate(POSES[:CROPPED]):
        assert result[i, 0].numpy().tolist() == turned_pixels(films[i, 0].numpy().astype(np.uint8), pose).tolist()
    assert films[3, 0, 0, 0] == 27  # the argument is as it was


def test_a_cropped_film_comes_in_cropped() -> None:
    films = torch.rand(1, 1, 4, 4)
    assert torch.equal(turned(films, torch.tensor([CROPPED])), films)
    with pytest.raises(ValueError, match="window"):
        turned_pixels(FILM, "cropped")


def test_a_window_is_a_part_of_the_film() -> None:
    film = np.arange(100 * 80, dtype=np.uint32).reshape(100, 80)
    part = window(film, np.random.default_rng(1), (0.5, 0.6))  # type: ignore[arg-type]  # wide numbers name their place
    top, left = divmod(int(part[0, 0]), 80)
    assert np.array_equal(part, film[top : top + part.shape[0], left : left + part.shape[1]])
    assert 50 <= part.shape[0] <= 60
    assert 40 <= part.shape[1] <= 48
