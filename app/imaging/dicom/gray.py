"""Samples to gray levels, in strips of rows so that the working copies stay small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_STRIP_ROWS = 128


def through_table(samples: NDArray[Any], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The table's entry for each sample's lower bits. samples: unsigned [H, W]; table: [2^bits]; bits above are not the sample's."""
    result = np.empty(samples.shape, np.uint8)
    for rows, patterns in _patterns(samples, len(table)):
        np.take(table, patterns, out=result[rows], mode="clip")  # never clips; without a mode numpy would make a copy
    return result


def pattern_counts(samples: NDArray[Any], size: int) -> NDArray[np.int64]:
    """How many samples hold each of the `size` bit patterns."""
    counts = np.zeros(size, np.int64)
    for _, patterns in _patterns(samples, size):
        counts += np.bincount(patterns.ravel(), minlength=size)
    return counts


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """ITU-R BT.601 section 2.5.1 luma of RGB [H, W, 3], as for JPEG and PNG; one channel passes."""
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels)
    result = np.empty(pixels.shape[:2], np.uint8)
    for top in range(0, pixels.shape[0], _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        result[rows] = cv2.cvtColor(np.ascontiguousarray(pixels[rows]), cv2.COLOR_RGB2GRAY)
    return result


def _patterns(samples: NDArray[Any], size: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Strips of rows and their samples in native byte order, masked to the bits stored."""
    kind = np.dtype(f"u{samples.dtype.itemsize}")
    mask = kind.type(size - 1)
    for top in range(0, samples.shape[0], _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        yield rows, np.bitwise_and(samples[rows].astype(kind, copy=False), mask)
