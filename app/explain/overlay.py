"""The picture of a map on its film, its outline, and the line under it.

Red = important. The tint's weight is alpha times the heat, so a cold region shows the film unchanged. Since a film is gray, the colour
planes of a JPEG depend on the heat alone and are made at half resolution (4:2:0), and its luma is one look-up in a table of
gray x heat; no RGB picture is made on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from app.domain import ActivationMap, Decision
from app.explain.head import Floats
from app.explain.maps import METHOD_NAMES

Bytes2D: TypeAlias = NDArray[np.uint8]

JPEG_QUALITY = 90
# Level 1 with the `up` filter alone: a third faster than the encoder's own choice among all filters, at the same size.
PNG_PARAMETERS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)


def overlay_size(height: int, width: int, max_px: int | None) -> tuple[int, int]:
    """(height, width) of a film's overlay: the longest side at most `max_px`, never enlarged; None = the film's own size."""
    scale = 1.0 if max_px is None else min(1.0, max_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def render_overlay(pixels: Bytes2D, heat: NDArray[np.float32], alpha: float, *, max_px: int | None = None) -> Bytes2D:
    """The film with the heat on it.

    Args:
        pixels: uint8 [H, W], the upright film, higher = brighter.
        heat: float32 [h, w] in [0, 1] over the whole film, at any resolution (`preprocessing.to_original`; half is plenty).
        alpha: weight of the tint in [0, 1] where the heat is 1.
        max_px: longest side of the result (`overlay_size`).

    Returns:
        RGB uint8 [H', W', 3].
    """
    index = _gray_heat_index(*_placed(pixels, heat, max_px))
    tables = _tables(float(alpha))
    rgb = cv2.merge([_lookup(index, table) for table in (tables.red, tables.green, tables.blue)])
    return np.asarray(rgb, dtype=np.uint8)


def overlay_bytes(
    pixels: Bytes2D,
    heat: NDArray[np.float32],
    alpha: float,
    image_format: Literal["png", "jpeg"],
    *,
    max_px: int | None = None,
) -> bytes:
    """`render_overlay` as a file: PNG (the same pixels), or JPEG 4:2:0 at quality 90 straight from luma and colour planes."""
    if image_format == "png":
        rgb = render_overlay(pixels, heat, alpha, max_px=max_px)
        done, png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), PNG_PARAMETERS)
        if not done:
            raise RuntimeError("the PNG encoder failed")
        return bytes(png)
    gray, heat8 = _placed(pixels, heat, max_px)
    tables = _tables(float(alpha))
    height, width = gray.shape
    half = _resized(heat8, (height + 1) // 2, (width + 1) // 2, cv2.INTER_AREA)
    luma = _lookup(_gray_heat_index(gray, heat8), tables.luma)
    chroma = [_lookup(half, table) for table in (tables.chroma_blue, tables.chroma_red)]
    return bytes(simplejpeg.encode_jpeg_yuv_planes(luma, *chroma, quality=JPEG_QUALITY))


def contours(values: NDArray[np.float32], level: float = 0.5) -> list[list[tuple[int, int]]]:
    """Outlines of the regions at or above a level, as closed polygons of (x, y), px of the map given, to within 1 px.

    Outer borders only: a hole inside a region is not cut out. Call it on a map that was scaled up to the film; a region of one or
    two pixels gives as many points. Algorithm: Suzuki & Abe 1985, thinned by Douglas & Peucker 1973.
    """
    region = (values >= level).astype(np.uint8)
    found, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    thinned = [cv2.approxPolyDP(border, 1.0, True) for border in found]
    return [[(int(x), int(y)) for x, y in border.reshape(-1, 2)] for border in thinned]


def caption(explained: ActivationMap, decision: Decision) -> str:
    """One line under the picture: the target's probability, its threshold where it has one, and what the map is not."""
    score = next(s for s in decision.classes if s.name == explained.target)
    facts = [decision.operating_point]
    if score.threshold_probability is not None:
        facts.insert(0, f"threshold {_shown(score.threshold_probability)}")
    what = f"{METHOD_NAMES[explained.method]} evidence for {explained.target}"
    if explained.no_positive_evidence:
        what = f"no positive {what}"
    return f"{explained.target} {_shown(score.probability)} ({', '.join(facts)}): {what}; a hint, not a lesion outline"


def _shown(probability: float) -> str:
    """Two decimals, and no claim of certainty: 0.00 and 1.00 are never shown."""
    if probability < 0.005:
        return "<0.01"
    return ">0.99" if probability >= 0.995 else f"{probability:.2f}"


@dataclass(frozen=True)
class _Tables:
    """Look-up tables of one alpha, uint8: [65536] by 256 * heat + gray, and the chroma [256] by heat."""

    red: Bytes2D
    green: Bytes2D
    blue: Bytes2D
    luma: Bytes2D
    chroma_blue: Bytes2D
    chroma_red: Bytes2D


@lru_cache(maxsize=8)
def _tables(alpha: float) -> _Tables:
    """colour(heat) runs from yellow to red; mixed = (1 - alpha heat) gray + alpha heat colour; YCbCr as in JFIF (ITU-R BT.601)."""
    heat = np.arange(256) / 255.0
    weight = alpha * heat
    red, green, blue = np.full(256, 255.0), 255.0 * (1.0 - heat), np.zeros(256)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    gray = np.arange(256.0)

    def mixed(tint: Floats) -> Bytes2D:
        return _levels((1.0 - weight)[:, None] * gray[None, :] + (weight * tint)[:, None]).ravel()

    return _Tables(
        red=mixed(red),
        green=mixed(green),
        blue=mixed(blue),
        luma=mixed(luma),
        chroma_blue=_levels(128.0 + weight * (blue - luma) / 1.772),
        chroma_red=_levels(128.0 + weight * (red - luma) / 1.402),
    )


def _levels(values: Floats) -> Bytes2D:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _placed(pixels: Bytes2D, heat: NDArray[np.float32], max_px: int | None) -> tuple[Bytes2D, Bytes2D]:
    """Film and heat, both uint8 at the size of the overlay."""
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or heat.ndim != 2:
        raise ValueError(f"uint8 [H, W] and [h, w] wanted, got {pixels.dtype} {pixels.shape} and {heat.shape}")
    height, width = overlay_size(pixels.shape[0], pixels.shape[1], max_px)
    heat8 = np.asarray(cv2.convertScaleAbs(heat, alpha=255), dtype=np.uint8)
    return _resized(pixels, height, width, cv2.INTER_AREA), _resized(heat8, height, width, cv2.INTER_LINEAR)


def _resized(image: Bytes2D, height: int, width: int, interpolation: int) -> Bytes2D:
    if image.shape == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


def _gray_heat_index(gray: Bytes2D, heat8: Bytes2D) -> NDArray[np.uint16]:
    """256 * heat + gray, [H, W]: the two bytes side by side, read as one little-endian number."""
    height, width = gray.shape
    return cv2.merge([gray, heat8]).reshape(height, 2 * width).view("<u2")


def _lookup(index: NDArray[np.uint8] | NDArray[np.uint16], table: Bytes2D) -> Bytes2D:
    return np.asarray(cv2.LUT(index, table), dtype=np.uint8)
