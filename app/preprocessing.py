"""From a film to the network's input: the one transform, driven by the manifest, used by serving and training alike.

Order: 16-bit rule -> statistics -> border crop -> conditional CLAHE -> resize (-> low-pass) -> uint8 -> normalisation.
Everything up to the uint8 image is deterministic on one machine and library set; the golden test holds its hash.
Pixels that were decoded at half of a film's size (`Radiograph.reduced_from`) go the same way; the geometry is that of the film.
The film's pixels are read three times (statistics, brightness, resize), and copied only by the 16-bit rule and by CLAHE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from app.bundle.input_spec import REDUCED_FROM, BorderCrop, Clahe, FixedNormalisation, InputSpec, PerImageNormalisation
from app.domain import Geometry, InputStatistics, PreparedInput, Radiograph

_DARK_BELOW, _BRIGHT_ABOVE = 16, 239
_STRIP_ROWS = 256


def prepare(radiograph: Radiograph, spec: InputSpec) -> PreparedInput:
    """The whole transform: tensor float32 [C, S, S], the uint8 [S, S] before normalisation, geometry and statistics."""
    resized, geometry, statistics = resize_to_input(radiograph, spec)
    tensor = normalise(resized, geometry, spec)
    return PreparedInput(tensor=tensor, resized=resized, geometry=geometry, statistics=statistics)


def network_tensor(radiograph: Radiograph, spec: InputSpec) -> NDArray[np.float32]:
    """The tensor of `prepare` alone, for a second network on the same film: its statistics are not taken again."""
    film = _film(radiograph, spec)
    square, geometry = _placed(film, spec, _levels(film.gray).std if spec.clahe is not None else 0.0)
    return normalise(square, geometry, spec)


def resize_to_input(radiograph: Radiograph, spec: InputSpec) -> tuple[NDArray[np.uint8], Geometry, InputStatistics]:
    """Everything before normalisation.

    Returns:
        uint8 [S, S] with S = spec.size; how it lies on the original; the film's statistics (gray values 0..255).
    """
    film = _film(radiograph, spec)
    levels = _levels(film.gray)
    square, geometry = _placed(film, spec, levels.std)
    inner = _film_part(square, geometry)
    statistics = InputStatistics(
        mean=levels.mean,
        std=levels.std,
        aspect=film.width / film.height,
        dark_fraction=levels.dark,
        bright_fraction=levels.bright,
        sharpness=float(cv2.meanStdDev(cv2.Laplacian(inner, cv2.CV_16S))[1][0, 0]),
        height=film.height,
        width=film.width,
    )
    return square, geometry, statistics


@dataclass(frozen=True)
class _Film:
    """gray: uint8 [h, w], at the film's own size or at half of it, rounded up. height, width: of the film, px."""

    gray: NDArray[np.uint8]
    height: int
    width: int
    reduced: bool


def _film(radiograph: Radiograph, spec: InputSpec) -> _Film:
    """Raises: ValueError for pixels that were reduced for another network: a nearer one would see something else."""
    reduced = radiograph.reduced_from is not None
    if reduced and min(radiograph.height, radiograph.width) < REDUCED_FROM * spec.size:
        raise ValueError(
            f"{radiograph.height} x {radiograph.width} px were decoded at half for less than {spec.size} px"
        )
    gray = to_eight_bit(radiograph.pixels, spec.sixteen_bit)
    return _Film(gray, radiograph.height, radiograph.width, reduced)


def _placed(film: _Film, spec: InputSpec, std: float) -> tuple[NDArray[np.uint8], Geometry]:
    """Crop, conditional CLAHE, resize, centre: uint8 [S, S] and how it lies on the film. std: the film's, gray levels."""
    top, left, bottom, right = _inside(film.gray, spec.border_crop)
    crop = film.gray[top:bottom, left:right]
    step = 2 if film.reduced else 1
    top, left, bottom, right = step * top, step * left, min(step * bottom, film.height), min(step * right, film.width)
    if spec.clahe is not None and std < spec.clahe.when_std_below:
        crop = _equalised(crop, spec.clahe)
    shown = (bottom - top) / step, (right - left) / step
    inner = _resized(crop, shown, _target(bottom - top, right - left, spec), spec.antialias_sigma)
    pad_top, pad_left = (spec.size - inner.shape[0]) // 2, (spec.size - inner.shape[1]) // 2
    square = np.zeros((spec.size, spec.size), np.uint8)
    square[pad_top : pad_top + inner.shape[0], pad_left : pad_left + inner.shape[1]] = inner
    geometry = Geometry(
        original_height=film.height,
        original_width=film.width,
        crop_top=top,
        crop_left=left,
        crop_height=bottom - top,
        crop_width=right - left,
        resized_height=inner.shape[0],
        resized_width=inner.shape[1],
        pad_top=pad_top,
        pad_left=pad_left,
        size=spec.size,
    )
    return square, geometry


def _film_part(square: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """The part of the square [S, S] that shows film, without the padding."""
    rows = slice(geometry.pad_top, geometry.pad_top + geometry.resized_height)
    columns = slice(geometry.pad_left, geometry.pad_left + geometry.resized_width)
    return square[rows, columns]


def normalise(resized: NDArray[np.uint8], geometry: Geometry, spec: InputSpec) -> NDArray[np.float32]:
    """The network's tensor, float32 [C, S, S].

    fixed: (gray / 255 - mean_c) / std_c, padding included (gray 0). per_image: (gray - mean) / max(std, std_floor) with mean and
    std over the film's part of the square; padding is 0. Computed in float64 per gray level, rounded once to float32.
    """
    levels = np.arange(256, dtype=np.float64)
    if isinstance(spec.normalisation, FixedNormalisation):
        norm = spec.normalisation
        tensor = np.empty((len(norm.mean), *resized.shape), np.float32)
        for plane, mean, std in zip(tensor, norm.mean, norm.std, strict=True):
            cv2.LUT(resized, ((levels / 255.0 - mean) / std).astype(np.float32), dst=plane)
        return tensor
    film = _standardised(resized, geometry, spec.normalisation, levels)
    return np.ascontiguousarray(np.broadcast_to(film, (spec.channels, *film.shape)))


def to_original(values: NDArray[np.float32], geometry: Geometry, *, max_px: int | None = None) -> NDArray[np.float32]:
    """A map over the network's input, laid on the frame of the original film.

    Args:
        values: float32 [h, w] of any resolution; covers the whole S x S input, padding included.
        max_px: longest side of the result, px; None for the size of the original. Never enlarged beyond the original.

    Returns:
        float32 [H', W'], bilinear; zeros outside the part of the film that the network saw.
    """
    size = geometry.size
    longest = max(geometry.original_height, geometry.original_width)
    scale = 1.0 if max_px is None else min(1.0, max_px / longest)
    height = max(1, round(geometry.original_height * scale))
    width = max(1, round(geometry.original_width * scale))
    top, bottom = _span(geometry.crop_top, geometry.crop_height, scale, height)
    left, right = _span(geometry.crop_left, geometry.crop_width, scale, width)
    square = cv2.resize(np.ascontiguousarray(values, np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    inner = square[
        geometry.pad_top : geometry.pad_top + geometry.resized_height,
        geometry.pad_left : geometry.pad_left + geometry.resized_width,
    ]
    frame = np.zeros((height, width), np.float32)
    frame[top:bottom, left:right] = cv2.resize(
        np.ascontiguousarray(inner), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR
    )
    return frame


def to_eight_bit(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], rule: Literal["significant_bits", "min_max", "percentile"]
) -> NDArray[np.uint8]:
    """Stored values to gray levels 0..255 by the manifest's rule (`InputSpec.sixteen_bit`); uint8 [H, W] passes unchanged.

    round((v - low) * 255 / (high - low)), half up, clipped; in integers, so that no value depends on a float's last bit.
    """
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    low, high = _window(pixels, rule)
    span = max(1, high - low)
    values = np.clip(np.arange(65_536, dtype=np.int64), low, high) - low
    table = ((values * 510 + span) // (2 * span)).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


def _window(pixels: NDArray[np.uint8] | NDArray[np.uint16], rule: str) -> tuple[int, int]:
    if rule == "significant_bits":
        most = int(pixels.max())
        return 0, next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if most < 2**bits)
    if rule == "min_max":
        return int(pixels.min()), int(pixels.max())
    histogram = cv2.calcHist([pixels], [0], None, [65_536], [0, 65_536]).astype(np.int64).ravel()
    below = np.cumsum(histogram)
    low, high = (int(np.searchsorted(below, share * below[-1])) for share in (0.005, 0.995))
    return low, high


@dataclass(frozen=True)
class _Levels:
    mean: float
    std: float
    dark: float
    bright: float


def _levels(film: NDArray[np.uint8]) -> _Levels:
    """Of uint8 [H, W]. The two shares are counted in strips of rows, whose masks stay in the processor's cache."""
    mean, std = cv2.meanStdDev(film)
    strips = [film[top : top + _STRIP_ROWS] for top in range(0, film.shape[0], _STRIP_ROWS)]
    return _Levels(
        mean=float(mean[0, 0]),
        std=float(std[0, 0]),
        dark=(film.size - sum(_count_above(strip, _DARK_BELOW - 1) for strip in strips)) / film.size,
        bright=sum(_count_above(strip, _BRIGHT_ABOVE) for strip in strips) / film.size,
    )


def _count_above(gray: NDArray[np.uint8], level: int) -> int:
    return cv2.countNonZero(cv2.threshold(gray, level, 1, cv2.THRESH_BINARY)[1])


def _inside(film: NDArray[np.uint8], crop: BorderCrop | None) -> tuple[int, int, int, int]:
    """top, left, bottom, right of what remains; columns are judged on the rows that remain."""
    height, width = film.shape
    if crop is None:
        return 0, 0, height, width
    top, bottom = _edges(cv2.reduce(film, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / width, crop)
    rows = film[top:bottom]
    left, right = _edges(cv2.reduce(rows, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / (bottom - top), crop)
    return top, left, bottom, right


def _edges(means: NDArray[np.float64], crop: BorderCrop) -> tuple[int, int]:
    n = len(means)
    most = int(n * crop.max_fraction)
    lit = np.flatnonzero(means > crop.max_mean)
    first, last = (int(lit[0]), int(lit[-1])) if len(lit) else (most, n - 1 - most)
    return min(first, most), max(last + 1, n - most)


def _equalised(film: NDArray[np.uint8], clahe: Clahe) -> NDArray[np.uint8]:
    tool = cv2.createCLAHE(clipLimit=clahe.clip_limit, tileGridSize=(clahe.tiles, clahe.tiles))
    return np.asarray(tool.apply(film), np.uint8)


def _target(height: int, width: int, spec: InputSpec) -> tuple[int, int]:
    if spec.resize == "stretch":
        return spec.size, spec.size
    longest = max(height, width)
    return tuple(max(1, (2 * side * spec.size + longest) // (2 * longest)) for side in (height, width))  # type: ignore[return-value]  # two sides in, two out


def _resized(
    film: NDArray[np.uint8], shown: tuple[float, float], target: tuple[int, int], antialias_sigma: float | None
) -> NDArray[np.uint8]:
    """Shrink by area, then enlarge what is still too short, then low-pass.

    Two steps, because INTER_AREA averages nothing once a single axis must grow.

    Args:
        shown: rows and columns of `film` [h, w] that show something: its shape, or half a row or column less at the end.
        target: rows and columns of the result.
    """
    height, width = target
    low = min(film.shape[0], height), min(film.shape[1], width)
    if shown != film.shape:
        film = _shrunk(film, shown, target)
    elif low != film.shape:
        film = np.asarray(cv2.resize(film, (low[1], low[0]), interpolation=cv2.INTER_AREA), np.uint8)
    if target != film.shape:
        film = np.asarray(cv2.resize(film, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if antialias_sigma is not None:
        film = np.asarray(cv2.GaussianBlur(film, (0, 0), antialias_sigma), np.uint8)
    return film


def _shrunk(film: NDArray[np.uint8], shown: tuple[float, float], target: tuple[int, int]) -> NDArray[np.uint8]:
    """Shrink to `target` by area what is `shown`, of which the last row or column may be half of one.

    OpenCV rounds film.shape * scale to the whole number of rows and columns, which is `target` because that is at most a quarter of
    what is shown; and takes the area of the last row or column from the scale that it is given, not from the rounded one.
    """
    down, across = target[0] / shown[0], target[1] / shown[1]
    small = cv2.resize(film, None, fx=across, fy=down, interpolation=cv2.INTER_AREA)
    if small.shape != target:
        raise ValueError(f"{film.shape} became {small.shape} instead of {target}")
    return np.asarray(small, np.uint8)


def _standardised(
    resized: NDArray[np.uint8], geometry: Geometry, norm: PerImageNormalisation, levels: NDArray[np.float64]
) -> NDArray[np.float32]:
    rows = slice(geometry.pad_top, geometry.pad_top + geometry.resized_height)
    columns = slice(geometry.pad_left, geometry.pad_left + geometry.resized_width)
    film = resized[rows, columns]
    counts = np.bincount(film.ravel(), minlength=256) / film.size
    mean = float(counts @ levels)
    std = math.sqrt(max(0.0, float(counts @ (levels - mean) ** 2)))
    table = ((levels - mean) / max(std, norm.std_floor)).astype(np.float32)
    plane = np.zeros(resized.shape, np.float32)
    plane[rows, columns] = cv2.LUT(film, table)
    return plane


def _span(start: int, length: int, scale: float, whole: int) -> tuple[int, int]:
    first = min(round(start * scale), whole - 1)
    return first, min(max(first + 1, round((start + length) * scale)), whole)
