"""Pictures that are no chest films, for the fit and its limit (outlier exposure, Hendrycks et al. 2019): nothing here is a
photograph, a scan or text, so that those can measure the gate without having been seen.

Drawn from a seed: noise of any colour, dead leaves (Lee, Mumford & Huang 2001), bodies with organs on black, gratings, gradients.
Made of films: pieces in the wrong order, small parts enlarged, folds, polar views, one side alone, doubled halves, phases at random.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from training.gate.poses import Gray, resized

Random = np.random.Generator


def drawn(seed: int, size: int) -> Gray:
    """One generated picture, uint8 [size, size]."""
    rng = np.random.default_rng(seed)
    return _DRAWN[int(rng.integers(len(_DRAWN)))](rng, size)


def made_of(film: Gray, rng: Random) -> Gray:
    """What is left of a square film when it is taken apart, uint8 of the same shape."""
    return resized(_MADE[int(rng.integers(len(_MADE)))](film, rng), film.shape[0])


def toned(values: NDArray[np.float64], rng: Random) -> Gray:
    """Any values as gray levels: a random share clipped at both ends, a random gamma, either polarity."""
    low, high = np.quantile(values, [rng.uniform(0, 0.05), 1 - rng.uniform(0, 0.05)])
    gray = np.clip((values - low) / max(high - low, 1e-6), 0, 1) ** np.exp(rng.uniform(-0.8, 0.8))
    return np.asarray(np.rint((gray if rng.random() < 0.5 else 1 - gray) * 255), np.uint8)


def noise(rng: Random, size: int) -> Gray:
    """Gaussian noise with a spectrum of 1 / f^b, b from 0 (white) to 4 (clouds), stretched along one axis."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    rows = np.fft.fftfreq(size)[:, None] * np.exp(rng.uniform(-0.7, 0.7))
    frequency = np.hypot(rows, np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    return toned(np.fft.irfft2(spectrum / frequency ** rng.uniform(0, 2), s=(size, size)), rng)


def _leaves(rng: Random, size: int) -> Gray:
    picture = np.full((size, size), float(rng.integers(256)), np.float32)
    for _ in range(int(rng.integers(1, 60))):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        a, b = (max(1, int(v)) for v in size * 0.5 * rng.random(2) ** 2)
        angle, gray = float(rng.uniform(0, 180)), float(rng.integers(256))
        if rng.random() < 0.6:
            cv2.ellipse(picture, (x, y), (a, b), angle, 0, 360, gray, -1)
        else:
            corners = cv2.boxPoints(((x, y), (2 * a, 2 * b), angle if rng.random() < 0.5 else 0.0))
            cv2.fillPoly(picture, [corners.astype(np.int32)], gray)
    if rng.random() < 0.6:
        cv2.GaussianBlur(picture, (0, 0), float(np.exp(rng.uniform(-0.5, 2))), dst=picture)
    grain = rng.uniform(0, 15) * rng.standard_normal(picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def _bodies(rng: Random, size: int) -> Gray:
    """One or two bright bodies on black with organs in them: a limb, a head, a slice."""
    inside = np.zeros((size, size), np.uint8)
    for _ in range(int(rng.integers(1, 3))):
        _ellipse(inside, rng, (0.25, 0.75), (0.08, 0.6), 255)
    picture = np.where(inside > 0, rng.uniform(60, 200), 0.0).astype(np.float32)
    for _ in range(int(rng.integers(0, 14))):
        organ = np.zeros_like(inside)
        _ellipse(organ, rng, (0.1, 0.9), (0.02, 0.25), 255)
        picture[(organ > 0) & (inside > 0)] = rng.uniform(0, 255)
    cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.5, 5)), dst=picture)
    grain = rng.uniform(0, 0.3) * (noise(rng, size).astype(np.float32) - 128)
    return np.clip(picture + grain * (inside > 0), 0, 255).astype(np.uint8)


def _ellipse(target: Gray, rng: Random, place: tuple[float, float], radius: tuple[float, float], gray: int) -> None:
    size = target.shape[0]
    x, y = (int(size * v) for v in rng.uniform(*place, 2))
    a, b = (max(2, int(size * v)) for v in rng.uniform(*radius, 2))
    cv2.ellipse(target, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, gray, -1)


def _gratings(rng: Random, size: int) -> Gray:
    y, x = np.mgrid[:size, :size] / size
    waves = np.zeros((size, size))
    for _ in range(int(rng.integers(1, 4))):
        angle, cycles = rng.uniform(0, np.pi), np.exp(rng.uniform(-1, 3.7))
        phase = 2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi)
        waves += np.exp(rng.uniform(-1, 1)) * np.sin(phase)
    if rng.random() < 0.3:
        waves = np.sign(waves)
    return toned(waves + rng.uniform(0, 0.3) * rng.standard_normal(waves.shape), rng)


def _gradient(rng: Random, size: int) -> Gray:
    """A few numbers, enlarged smoothly or as blocks."""
    kind = int(rng.choice([cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_NEAREST]))
    few = rng.random((int(rng.integers(2, 7)), int(rng.integers(2, 7))))
    smooth = np.asarray(cv2.resize(few, (size, size), interpolation=kind), np.float64)
    return toned(smooth + rng.uniform(0, 0.05) * rng.standard_normal(smooth.shape), rng)


def _pieces(film: Gray, rng: Random) -> Gray:
    """Cut into 2 x 2 to 4 x 4 pieces and put together wrongly, some of them turned."""
    count = int(rng.choice([2, 2, 3, 4]))
    side = film.shape[0] // count
    tiles = [film[y * side : (y + 1) * side, x * side : (x + 1) * side] for y in range(count) for x in range(count)]
    order = rng.permutation(len(tiles))
    if (order == np.arange(len(order))).mean() > 0.3:
        order = np.roll(order, 1)
    turns = rng.integers(4, size=len(tiles)) * (rng.random(len(tiles)) < 0.5)
    tiles = [np.rot90(tiles[i], int(k)) for i, k in zip(order, turns, strict=True)]
    return np.vstack([np.hstack(tiles[r * count : (r + 1) * count]) for r in range(count)])


def _enlarged(film: Gray, rng: Random) -> Gray:
    side = int(film.shape[0] * rng.uniform(0.1, 0.3))
    top, left = rng.integers(0, film.shape[0] - side, 2)
    return np.ascontiguousarray(film[top : top + side, left : left + side])


def _folded(film: Gray, rng: Random) -> Gray:
    size, knots = film.shape[0], int(rng.integers(3, 6))
    shift = cv2.resize(
        rng.standard_normal((knots, knots, 2)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    shift *= size * rng.uniform(0.15, 0.3)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    border = cv2.BORDER_REFLECT if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    return np.asarray(
        cv2.remap(film, x + shift[..., 0], y + shift[..., 1], cv2.INTER_LINEAR, borderMode=border), np.uint8
    )


def _polar(film: Gray, rng: Random) -> Gray:
    size = film.shape[0]
    flags = cv2.WARP_FILL_OUTLIERS if rng.random() < 0.5 else cv2.WARP_INVERSE_MAP
    film = np.ascontiguousarray(np.rot90(film, int(rng.integers(4))))
    return np.asarray(
        cv2.warpPolar(film, (size, size), (size / 2, size / 2), size * rng.uniform(0.35, 0.7), flags), np.uint8
    )


def _halves(film: Gray, rng: Random) -> Gray:
    """The upper half twice: mirrored, repeated, or each squeezed whole."""
    half, kind = film.shape[0] // 2, int(rng.integers(3))
    if kind == 0:
        return np.vstack([film[:half], film[:half][::-1]])
    if kind == 1:
        return np.vstack([film[:half], film[:half]])
    return np.vstack([resized(film, half)] * 2)


def _one_side(film: Gray, rng: Random) -> Gray:
    """A left or right strip of the chest, stretched to the frame."""
    size = film.shape[0]
    width, height = int(size * rng.uniform(0.25, 0.45)), int(size * rng.uniform(0.6, 1))
    left, top = int(rng.choice([0, size - width])), int(rng.integers(0, size - height + 1))
    return np.ascontiguousarray(film[top : top + height, left : left + width])


def _scrambled(film: Gray, rng: Random) -> Gray:
    """The film's amplitudes with the phases of noise."""
    phases = np.fft.rfft2(rng.standard_normal(film.shape))
    spectrum = np.abs(np.fft.rfft2(film.astype(np.float64))) * phases / np.maximum(np.abs(phases), 1e-9)
    return toned(np.fft.irfft2(spectrum, s=film.shape), rng)


_DRAWN: tuple[Callable[[Random, int], Gray], ...] = (noise, _leaves, _leaves, _bodies, _bodies, _gratings, _gradient)
_MADE: tuple[Callable[[Gray, Random], Gray], ...] = (
    *(_pieces, _pieces, _enlarged, _enlarged, _folded, _folded),
    *(_polar, _halves, _one_side, _one_side, _scrambled),
)
