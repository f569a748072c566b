"""The corruptions of the hard validation, fixed in code before any training: five kinds at three severities.

They work on the network's uint8 input, film by film. Direction and place are drawn from a generator seeded by the film's path,
the kind and the severity, so every run and every half sees the same changed films.

    kind      severity 1, 2, 3
    exposure  gray * 2^±e, clipped                       e = 0.25, 0.5, 0.75 (stops)
    contrast  S-shaped curve with a random centre        gain = 3, 5, 8
    gamma     (gray / 255)^g or ^(1/g)                   g = 1.3, 1.7, 2.2
    crop      a random square part, resized back         share of the side = 0.92, 0.85, 0.78
    blur      Gaussian                                   sigma = 0.8, 1.5, 2.5 px
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.uint8]

_STOPS = (0.25, 0.5, 0.75)
_GAIN = (3.0, 5.0, 8.0)
_GAMMA = (1.3, 1.7, 2.2)
_SHARE = (0.92, 0.85, 0.78)
_SIGMA = (0.8, 1.5, 2.5)
SEVERITIES = (1, 2, 3)


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
