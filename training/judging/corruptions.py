"""Changes made to films to see whether answers hold. Two sets, both fixed in code before any training.

The *selection* (`KINDS`, `SEVERITIES`) chooses between runs and never changes: five kinds at three severities. Direction and place
are drawn from a generator seeded by the film's path, the kind and the severity, so every run and every half sees the same films.

    kind      severity 1, 2, 3
    exposure  gray * 2^±e, clipped                       e = 0.25, 0.5, 0.75 (stops)
    contrast  S-shaped curve with a random centre        gain = 3, 5, 8
    gamma     (gray / 255)^g or ^(1/g)                   g = 1.3, 1.7, 2.2
    crop      a random square part, resized back         share of the side = 0.92, 0.85, 0.78
    blur      Gaussian                                   sigma = 0.8, 1.5, 2.5 px

The *suite* (`SUITE`, `SUITE_SEVERITIES`) only reports: nine kinds at five severities. Direction, place and noise are drawn from the
path and the kind alone, so the same film is changed in the same way, further at each severity. Lengths are shares of the side S.

    kind        severity 1 to 5
    brightness  gray ± b * 255, clipped                    b = 0.05, 0.10, 0.20, 0.30, 0.40
    contrast    mean + (gray - mean) * (1 ± c), clipped    c = 0.10, 0.20, 0.40, 0.60, 0.80
    blur        Gaussian, sigma = s * S                    s = 0.003, 0.006, 0.010, 0.015, 0.022
    noise       Gaussian noise of std n * 255, clipped     n = 0.01, 0.02, 0.04, 0.07, 0.10
    downscale   shrunk to d * S by area, enlarged again    d = 0.75, 0.50, 0.33, 0.25, 0.16
    jpeg        saved as JPEG of quality q                 q = 60, 40, 25, 15, 7
    rotation    about the centre by ± a, corners black     a = 3, 6, 9, 12, 15 degrees
    crop        a square part of share k, resized back     k = 0.95, 0.90, 0.84, 0.78, 0.70
    inversion   blend with the negative film, weight w     w = 0.2, 0.4, 0.6, 0.8, 1.0
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.views import rotated

Gray = NDArray[np.uint8]

_STOPS = (0.25, 0.5, 0.75)
_GAIN = (3.0, 5.0, 8.0)
_GAMMA = (1.3, 1.7, 2.2)
_SHARE = (0.92, 0.85, 0.78)
_SIGMA = (0.8, 1.5, 2.5)
SEVERITIES = (1, 2, 3)

_SUITE_LEVELS: dict[str, tuple[float, ...]] = {
    "brightness": (0.05, 0.10, 0.20, 0.30, 0.40),
    "contrast": (0.10, 0.20, 0.40, 0.60, 0.80),
    "blur": (0.003, 0.006, 0.010, 0.015, 0.022),
    "noise": (0.01, 0.02, 0.04, 0.07, 0.10),
    "downscale": (0.75, 0.50, 0.33, 0.25, 0.16),
    "jpeg": (60, 40, 25, 15, 7),
    "rotation": (3, 6, 9, 12, 15),
    "crop": (0.95, 0.90, 0.84, 0.78, 0.70),
    "inversion": (0.2, 0.4, 0.6, 0.8, 1.0),
}
SUITE = tuple(_SUITE_LEVELS)
SUITE_SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(film: Gray, kind: str, severity: int, name: str) -> Gray:
    """The film changed.

    Args:
        film: uint8 [S, S].
        kind: one of `KINDS`.
        severity: 1 (mild) to 3 (severe).
        name: the film's path; seeds direction and place.

    Returns:
        uint8 [S, S]. Raises KeyError for an unknown kind, ValueError for an unknown severity.
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity} is not one of {SEVERITIES}")
    seed = int.from_bytes(hashlib.sha256(f"{name}:{kind}:{severity}".encode()).digest()[:8], "big")
    return _KINDS[kind](film, severity - 1, np.random.default_rng(seed))


def corrupt_all(films: Gray, kind: str, severity: int, names: Sequence[str]) -> Gray:
    """uint8 [N, S, S], each film changed by `corrupt` under its own name."""
    return np.stack([corrupt(film, kind, severity, name) for film, name in zip(films, names, strict=True)])


def degrade(film: Gray, kind: str, severity: int, name: str) -> Gray:
    """The film changed by one kind of the suite.

    Args:
        film: uint8 [S, S].
        kind: one of `SUITE`.
        severity: 1 (mild) to 5 (severe).
        name: the film's path; seeds direction, place and noise, the same at every severity.

    Returns:
        uint8 [S, S]. Raises KeyError for an unknown kind, ValueError for an unknown severity.
    """
    if severity not in SUITE_SEVERITIES:
        raise ValueError(f"severity {severity} is not one of {SUITE_SEVERITIES}")
    level = _SUITE_LEVELS[kind][severity - 1]
    seed = int.from_bytes(hashlib.sha256(f"{name}:suite:{kind}".encode()).digest()[:8], "big")
    return _SUITE[kind](film, level, np.random.default_rng(seed))


def degrade_all(films: Gray, kind: str, severity: int, names: Sequence[str]) -> Gray:
    """uint8 [N, S, S], each film changed by `degrade` under its own name."""
    return np.stack([degrade(film, kind, severity, name) for film, name in zip(films, names, strict=True)])


def _exposure(film: Gray, level: int, rng: np.random.Generator) -> Gray:
    factor = 2.0 ** (_STOPS[level] * rng.choice((-1.0, 1.0)))
    return _table(film, lambda gray: gray * factor)


def _contrast(film: Gray, level: int, rng: np.random.Generator) -> Gray:
    gain, centre = _GAIN[level], rng.uniform(0.35, 0.65)

    def curve(gray: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high, value = (1 / (1 + np.exp(-gain * (x - centre))) for x in (np.zeros(1), np.ones(1), gray))
        return np.asarray((value - low) / (high - low), dtype=np.float64)

    return _table(film, curve)


def _gamma(film: Gray, level: int, rng: np.random.Generator) -> Gray:
    exponent = _GAMMA[level] ** rng.choice((-1.0, 1.0))
    return _table(film, lambda gray: gray**exponent)


def _crop(film: Gray, level: int, rng: np.random.Generator) -> Gray:
    size = film.shape[0]
    side = round(size * _SHARE[level])
    top, left = rng.integers(size - side + 1, size=2)
    part = film[top : top + side, left : left + side]
    return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _blur(film: Gray, level: int, rng: np.random.Generator) -> Gray:
    del rng
    return np.asarray(cv2.GaussianBlur(film, (0, 0), _SIGMA[level]), dtype=np.uint8)


def _table(film: Gray, curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Gray:
    """Apply a tone curve given on [0, 1]; values outside are clipped, as on a film."""
    values = curve(np.arange(256, dtype=np.float64) / 255)
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)[film]


_KINDS: dict[str, Callable[[Gray, int, np.random.Generator], Gray]] = {
    "exposure": _exposure,
    "contrast": _contrast,
    "gamma": _gamma,
    "crop": _crop,
    "blur": _blur,
}
KINDS = tuple(_KINDS)


def _brighter(film: Gray, level: float, rng: np.random.Generator) -> Gray:
    shift = level * rng.choice((-1.0, 1.0))
    return _table(film, lambda gray: gray + shift)


def _stretched(film: Gray, level: float, rng: np.random.Generator) -> Gray:
    factor, mean = 1.0 + level * rng.choice((-1.0, 1.0)), float(film.mean()) / 255
    return _table(film, lambda gray: mean + (gray - mean) * factor)


def _blurred(film: Gray, level: float, rng: np.random.Generator) -> Gray:
    del rng
    return np.asarray(cv2.GaussianBlur(film, (0, 0), level * film.shape[0]), dtype=np.uint8)


def _noisy(film: Gray, level: float, rng: np.random.Generator) -> Gray:
    grain = 255 * level * rng.standard_normal(film.shape)
    return np.clip(np.rint(film + grain), 0, 255).astype(np.uint8)


def _downscaled(film: Gray, level: float, rng: np.random.Generator) -> Gray:
    del rng
    size = film.shape[0]
    side = max(1, round(size * level))
    small = cv2.resize(film, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _compressed(film: Gray, level: float, rng: np.random.Generator) -> Gray:
    del rng
    coded = cv2.imencode(".jpg", film, (cv2.IMWRITE_JPEG_QUALITY, round(level)))[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


def _rotated(film: Gray, level: float, rng: np.random.Generator) -> Gray:
    return rotated(film, level * rng.choice((-1.0, 1.0)))


def _cropped(film: Gray, level: float, rng: np.random.Generator) -> Gray:
    """The same relative place at every severity."""
    size = film.shape[0]
    side = round(size * level)
    top, left = (round(share * (size - side)) for share in rng.random(2))
    part = film[top : top + side, left : left + side]
    return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _inverted(film: Gray, level: float, rng: np.random.Generator) -> Gray:
    del rng
    return _table(film, lambda gray: (1 - level) * gray + level * (1 - gray))


_SUITE: dict[str, Callable[[Gray, float, np.random.Generator], Gray]] = {
    "brightness": _brighter,
    "contrast": _stretched,
    "blur": _blurred,
    "noise": _noisy,
    "downscale": _downscaled,
    "jpeg": _compressed,
    "rotation": _rotated,
    "crop": _cropped,
    "inversion": _inverted,
}
