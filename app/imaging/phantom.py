"""Chest-like test pictures, drawn from a seed: no patient, no licence, the same pixels on every run.

They serve tests, the golden cases of a bundle and a first request. They are no radiographs, and no model is trained on them.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

_Plane = NDArray[np.float64]


def phantom(seed: int, *, height: int = 512, width: int = 448, opacity: bool = False) -> NDArray[np.uint8]:
    """A frontal-chest-like picture: uint8 [H, W], higher = denser (MONOCHROME2).

    Args:
        seed: picks anatomy, exposure and noise.
        opacity: adds one soft, dense patch to a lung, as a consolidation would look.
    """
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    x = x - 0.5 - _between(rng, -0.02, 0.02)
    body = _ellipse(x, y, centre=(0.0, 0.78), radii=(_between(rng, 0.46, 0.52), 0.72), soft=0.04, power=3.0)
    neck = _ellipse(x, y, centre=(0.0, 0.02), radii=(0.13, 0.22), soft=0.04)
    gray = 0.62 * np.maximum(body, neck)
    lungs, centres = _lungs(rng, x, y)
    gray -= 0.44 * lungs * body
    gray += 0.16 * _ribs(rng, x, y) * (0.25 + 0.75 * lungs) * body
    spine = np.exp(-((x / 0.045) ** 2)) * (0.85 + 0.15 * np.cos(2 * np.pi * y * 17))
    place = (_between(rng, 0.04, 0.07), 0.63)
    heart = _ellipse(x, y, centre=place, radii=(_between(rng, 0.12, 0.16), 0.18), soft=0.25)
    heart = np.maximum(heart, _ellipse(x, y, centre=(0.0, 0.4), radii=(0.065, 0.4), soft=0.5))
    gray += 0.16 * spine + 0.36 * heart * lungs + 0.06 * heart
    gray += 0.12 * _clavicles(x, y) * body
    if opacity:
        patch = np.random.default_rng((seed, 1))  # its own stream, so that all else stays as without it
        place = (centres[int(_between(patch, 0, 2))], _between(patch, 0.42, 0.66))
        radii = (_between(patch, 0.06, 0.1), _between(patch, 0.06, 0.11))
        gray += 0.32 * _ellipse(x, y, centre=place, radii=radii, soft=0.8) * lungs * (1.0 - heart)
    gray += _texture(rng, height, width)
    exposure = _between(rng, 0.92, 1.08)
    return np.rint(np.clip(gray * exposure + 0.04, 0.0, 1.0) * 255.0).astype(np.uint8)


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """A gray PNG of uint8 or uint16 [H, W]."""
    return bytes(cv2.imencode(".png", pixels)[1])


def encode_jpeg(pixels: NDArray[np.uint8], quality: int = 90) -> bytes:
    """A gray baseline JPEG of uint8 [H, W]; quality 1..100."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels)[:, :, None], quality=quality, colorspace="GRAY"))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _ellipse(
    x: _Plane,
    y: _Plane,
    *,
    centre: tuple[float, float],
    radii: tuple[float, float],
    soft: float,
    power: float = 2.0,
) -> _Plane:
    """1 inside, 0 outside, an edge of relative width `soft`; a higher `power` is squarer."""
    across, along = np.abs((x - centre[0]) / radii[0]), np.abs((y - centre[1]) / radii[1])
    radius = (across**power + along**power) ** (1.0 / power)
    inside: _Plane = np.clip((1.0 - radius) / soft + 0.5, 0.0, 1.0)
    return inside * inside * (3.0 - 2.0 * inside)


def _lungs(rng: np.random.Generator, x: _Plane, y: _Plane) -> tuple[_Plane, tuple[float, float]]:
    """Two fields, narrow at the apex, cut below by the domes of the diaphragm."""
    centres = (-_between(rng, 0.19, 0.22), _between(rng, 0.19, 0.22))
    lungs = np.zeros_like(x)
    for centre, floor in zip(centres, (_between(rng, 0.76, 0.79), _between(rng, 0.79, 0.82)), strict=True):
        shift = centre * (0.55 + 0.55 * np.clip(y, 0.1, 0.8))
        field = _ellipse(x - shift, y, centre=(0.0, 0.50), radii=(0.155, 0.37), soft=0.15)
        dome = floor + 1.6 * (x - centre * 0.85) ** 2
        lungs = np.maximum(lungs, field * np.clip((dome - y) / 0.02 + 0.5, 0.0, 1.0))
    return lungs, centres


def _ribs(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Plane:
    """Nine pairs of arcs, falling outwards."""
    phase, spacing = _between(rng, 0.0, 0.03), _between(rng, 0.070, 0.078)
    ribs = np.zeros_like(x)
    for i in range(9):
        line = 0.16 + phase + i * spacing + 1.1 * (np.abs(x) - 0.05) ** 2
        ribs += np.exp(-(((y - line) / 0.011) ** 2))
    return np.clip(ribs, 0.0, 1.0) * (np.abs(x) < 0.40)


def _clavicles(x: _Plane, y: _Plane) -> _Plane:
    line = 0.185 - 0.12 * np.abs(x)
    bones: _Plane = np.exp(-(((y - line) / 0.014) ** 2)) * np.clip((0.36 - np.abs(x)) / 0.02, 0.0, 1.0)
    return bones


def _texture(rng: np.random.Generator, height: int, width: int) -> _Plane:
    """Vessel-like clouds and fine grain; uniform draws only, whose stream numpy does not change."""
    clouds = cv2.resize(rng.random((24, 24)) - 0.5, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.random((height, width)) - 0.5
    texture: _Plane = 0.07 * clouds + 0.03 * grain
    return texture
