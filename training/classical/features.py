"""Films as feature vectors: histograms of oriented gradients, and thumbnails."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from training.classical.spec import HogPart

Gray = NDArray[np.uint8]
Features = NDArray[np.float32]

THUMBNAIL = 32
_BATCH = 32
_EPSILON = 1e-5
_CLIP = 0.2  # of the L2-Hys norm


def hog(films: Gray, part: HogPart) -> Features:
    """Histograms of oriented gradients.

    Dalal and Triggs (CVPR 2005), section 6: central differences [-1, 0, 1] without smoothing (one-sided at the border), unsigned
    orientation, magnitudes shared between the two nearest bins, cells, overlapping blocks with L2-Hys norm (clipped at 0.2). Unlike
    there a pixel counts for its own cell only. A factor on the gray values changes nothing but rounding.

    Args:
        films: uint8 [N, S, S]; resized to `part.size` by area.

    Returns:
        float32 [N, b * b * block * block * bins] in [0, 1], b = size / cell - block + 1 blocks a side.
    """
    parts = [np.empty((0, hog_length(part)), dtype=np.float32)]
    for start in range(0, len(films), _BATCH):
        gray = _resized(films[start : start + _BATCH], part.size).astype(np.float32)
        parts.append(_blocks(_cells(gray, part), part.block))
    return np.concatenate(parts)


def hog_length(part: HogPart) -> int:
    """Features per film."""
    blocks = part.size // part.cell - part.block + 1
    return blocks * blocks * part.block * part.block * part.bins


def thumbnails(films: Gray) -> Features:
    """float32 [N, 1024] in [0, 1]: uint8 [N, S, S] averaged to 32 x 32 px."""
    small = _resized(films, THUMBNAIL).astype(np.float32) / 255
    return np.ascontiguousarray(small.reshape(len(films), THUMBNAIL * THUMBNAIL))


def extractors(part: HogPart) -> dict[str, Callable[[Gray], Features]]:
    """By the first word of a model's name."""
    return {"hog": lambda films: hog(films, part), "thumbnail": thumbnails}


def _resized(films: Gray, size: int) -> Gray:
    made = np.empty((len(films), size, size), dtype=np.uint8)
    for i, film in enumerate(films):
        made[i] = cv2.resize(np.asarray(film), (size, size), interpolation=cv2.INTER_AREA)
    return made


def _cells(gray: Features, part: HogPart) -> Features:
    """Histograms float32 [N, c, c, bins] of float32 [N, size, size]: sums of gradient magnitude by orientation."""
    down, right = np.gradient(gray, axis=(1, 2))
    magnitude = np.hypot(down, right)
    place = np.mod(np.arctan2(down, right), np.pi) * (part.bins / np.pi) - 0.5  # in bins, from the first one's centre
    lower = np.floor(place)
    share = place - lower
    count = part.size // part.cell
    histograms = np.zeros((len(gray), count, count, part.bins), dtype=np.float32)
    for weight, at in ((1 - share, lower), (share, lower + 1)):
        index = np.mod(at, part.bins).astype(np.int8)  # orientation is a circle
        for b in range(part.bins):
            kept = np.where(index == b, magnitude * weight, 0)
            histograms[..., b] += kept.reshape(len(gray), count, part.cell, count, part.cell).sum(axis=(2, 4))
    return histograms


def _blocks(cells: Features, block: int) -> Features:
    """Overlapping blocks, each with L2-Hys norm: unit length, clipped at 0.2, unit length again."""
    windows = np.lib.stride_tricks.sliding_window_view(cells, (block, block), axis=(1, 2))
    vectors = windows.reshape(*windows.shape[:3], -1)
    vectors = np.minimum(_unit(vectors), _CLIP)
    return np.ascontiguousarray(_unit(vectors).reshape(len(cells), -1), dtype=np.float32)


def _unit(vectors: Features) -> Features:
    length = np.sqrt(np.sum(vectors * vectors, axis=-1, keepdims=True) + _EPSILON**2)
    return np.asarray(vectors / length, dtype=np.float32)
