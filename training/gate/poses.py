"""The ways in which a chest film can lie, and films turned that way.

A film is turned by whole quarters and its gray values are exchanged; `cropped` shows a window of it. Mirrored films are no pose:
nothing in a picture without a side marker tells them from a heart on the right.
"""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.bundle.gate_spec import Pose

Gray = NDArray[np.uint8]

POSES: tuple[Pose, ...] = get_args(Pose)
CROPPED = POSES.index("cropped")
WINDOW = (0.40, 0.62)  # sides of what is left of a cropped film, as shares of the whole


def turned(films: Tensor, poses: Tensor) -> Tensor:
    """Films as they would be handed in: float32 [B, 1, S, S] of gray levels 0..255, poses int64 [B] -> the same shape.

    `rotated_90` is clockwise, as `np.rot90(pixels, -1)`. Cropped films come in cropped and pass unchanged.
    """
    result = films.clone()
    whole = poses < CROPPED
    for quarters in (1, 2, 3):
        chosen = whole & (poses % 4 == quarters)
        result[chosen] = torch.rot90(films[chosen], -quarters, (2, 3))
    inverted = whole & (poses >= 4)
    result[inverted] = 255 - result[inverted]
    return result


def turned_pixels(film: Gray, pose: Pose) -> Gray:
    """One film, uint8 [H, W], in a pose other than `cropped`."""
    index = POSES.index(pose)
    if index == CROPPED:
        raise ValueError("a cropped film needs a window: see `window`")
    result = np.rot90(film, -(index % 4))
    return np.ascontiguousarray(255 - result if index >= 4 else result)


def window(film: Gray, rng: np.random.Generator, shares: tuple[float, float] = WINDOW) -> Gray:
    """A random part of the film, uint8 [h, w]; both sides are drawn from `shares` of the whole."""
    height, width = film.shape
    part = [max(8, round(side * rng.uniform(*shares))) for side in (height, width)]
    top, left = rng.integers(height - part[0] + 1), rng.integers(width - part[1] + 1)
    return np.ascontiguousarray(film[top : top + part[0], left : left + part[1]])


def resized(film: Gray, size: int) -> Gray:
    """uint8 [size, size], by area where it shrinks."""
    smaller = film.shape[0] >= size and film.shape[1] >= size
    return np.asarray(
        cv2.resize(film, (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR), np.uint8
    )
