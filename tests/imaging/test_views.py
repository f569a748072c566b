from __future__ import annotations

import numpy as np
import pytest

from app.imaging.phantom import phantom
from app.imaging.views import FURTHER_VIEWS, exposed, rotated


def square() -> np.typing.NDArray[np.uint8]:
    return phantom(3, height=96, width=96)


def test_a_quarter_turn_is_counter_clockwise_and_about_the_centre() -> None:
    film = square()
    assert np.abs(rotated(film, 90).astype(int) - np.rot90(film)).max() <= 1


def test_a_small_turn_brings_black_corners_and_can_be_undone() -> None:
    film = np.full((96, 96), 200, np.uint8)
    turned = rotated(film, 5)
    assert turned[0, 0] == turned[-1, -1] == 0
    assert (turned[20:76, 20:76] == 200).all()
    ramp = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    assert np.abs(rotated(ramp, 5).astype(int) - ramp)[20:76, 20:76].max() >= 3
    back = rotated(rotated(ramp, 5), -5).astype(int)
    assert np.abs(back - ramp)[20:76, 20:76].max() <= 1


@pytest.mark.parametrize(
    ("stops", "wanted"), [(1.0, [0, 2, 200, 255]), (-1.0, [0, 0, 50, 100]), (0.0, [0, 1, 100, 200])]
)
def test_exposure_is_a_power_of_two(stops: float, wanted: list[int]) -> None:
    film = np.array([[0, 1, 100, 200]], np.uint8)
    assert exposed(film, stops).tolist() == [wanted]
    assert exposed(film, stops).dtype == np.uint8


def test_the_views_of_the_service() -> None:
    film = square()
    assert list(FURTHER_VIEWS) == ["rotation +5", "rotation -5", "brightness +0.15 stops", "brightness -0.15 stops"]
    seen = [view(film) for view in FURTHER_VIEWS.values()]
    np.testing.assert_array_equal(seen[0], rotated(film, 5))
    np.testing.assert_array_equal(seen[1], rotated(film, -5))
    np.testing.assert_array_equal(seen[2], exposed(film, 0.15))
    np.testing.assert_array_equal(seen[3], exposed(film, -0.15))
    assert film.flags.writeable  # and no view wrote to it
    np.testing.assert_array_equal(film, square())
