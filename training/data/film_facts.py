"""Numbers about a film that say how it was made rather than what it shows: size, coding, exposure, borders, corners, texture.

None of them should tell a network the class. `training.data.suspects` measures whether they do.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.domain import Radiograph
from app.preprocessing import to_eight_bit

FACTS: dict[str, str] = {
    "upstream longest side": "px, of the film as its source had it, where that is known",
    "longest side": "px, of the stored file",
    "aspect ratio": "width / height",
    "bytes per pixel": "of the stored file",
    "JPEG quality": "1 to 100, from the quantisation tables; films of other formats have none",
    "mean": "gray level, 0 to 255",
    "standard deviation": "gray levels",
    "dark share": "of pixels below 16",
    "bright share": "of pixels above 239",
    "black border": "share of the area in outer rows and columns with a mean of at most 8",
    "border brightness": "mean of the outer 4 % on each side over the mean of the rest",
    "brightest corner": "largest mean gray level of the four corners (8 % of a side)",
    "busiest corner": "largest standard deviation of a corner: text and markers",
    "LBP entropy": "bits; texture at 224 px (Ojala et al. 2002, 8 neighbours, radius 1)",
    "edge strength": "mean Sobel magnitude at 224 px, gray levels",
    "sharpness": "standard deviation of the Laplacian at 224 px, gray levels",
    "fine detail": "standard deviation of what a Gaussian of 1 px removes at 224 px, over that of the film",
}
UNDER_EXPOSED_BELOW, OVER_EXPOSED_ABOVE = 50.0, 200.0  # mean gray level, as design S3 counted them
_SIDE, _DARK_BELOW, _BRIGHT_ABOVE, _BLACK = 224, 16, 239, 8.0
_LUMINANCE_SUM = 3_675
"""Sum of the 64 entries of the example luminance table (ITU-T T.81, table K.1), which libjpeg calls quality 50."""
_DQT, _SOS, _SOI = 0xDB, 0xDA, b"\xff\xd8"


def film_facts(content: bytes, radiograph: Radiograph, upstream_px: int) -> dict[str, float]:
    """`FACTS` of one film; nan where there is none. content: its file; upstream_px: longest side upstream, 0 where unknown."""
    film = to_eight_bit(radiograph.pixels, "significant_bits")
    height, width = film.shape
    quality = jpeg_quality(content)
    facts = {
        "upstream longest side": float(upstream_px) if upstream_px else np.nan,
        "longest side": float(max(height, width)),
        "aspect ratio": width / height,
        "bytes per pixel": len(content) / (height * width),
        "JPEG quality": np.nan if quality is None else quality,
        "mean": float(film.mean()),
        "standard deviation": float(film.std()),
        "dark share": float((film < _DARK_BELOW).mean()),
        "bright share": float((film > _BRIGHT_ABOVE).mean()),
        "black border": black_border(film),
    }
    return facts | _frame(film) | texture(film)


def jpeg_quality(content: bytes) -> float | None:
    """The quality that libjpeg would have been told: from the sum of the first quantisation table. None for other formats.

    Within 1 from quality 25 on; below, entries are cut at 255 and the quality looks higher than it was.
    """
    if not content.startswith(_SOI):
        return None
    at = len(_SOI)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], struct.unpack_from(">H", content, at + 2)[0]
        if marker == _DQT:
            wide = content[at + 4] >> 4
            layout = ">64H" if wide else "64B"
            if at + 5 + struct.calcsize(layout) > len(content):
                return None
            scale = 100 * sum(struct.unpack_from(layout, content, at + 5)) / _LUMINANCE_SUM  # per cent
            return float(np.clip(5000 / scale if scale > 100 else (200 - scale) / 2, 1, 100))
        if marker == _SOS:
            break
        at += 2 + length
    return None


def black_border(film: NDArray[np.uint8]) -> float:
    """Share of the area of uint8 [H, W] that lies in outer rows and columns with a mean of at most 8 gray levels."""
    rows, columns = np.flatnonzero(film.mean(1) > _BLACK), np.flatnonzero(film.mean(0) > _BLACK)
    if not len(rows) or not len(columns):
        return 1.0
    inside = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return float(1 - inside / film.size)


def _frame(film: NDArray[np.uint8]) -> dict[str, float]:
    height, width = film.shape
    top, left = max(1, round(0.04 * height)), max(1, round(0.04 * width))
    inner = film[top:-top, left:-left]
    around = (float(film.sum(dtype=np.int64)) - float(inner.sum(dtype=np.int64))) / (film.size - inner.size)
    high, wide = max(2, round(0.08 * height)), max(2, round(0.08 * width))
    corners = [film[r, c] for r in (slice(high), slice(-high, None)) for c in (slice(wide), slice(-wide, None))]
    return {
        "border brightness": around / max(1.0, float(inner.mean())),
        "brightest corner": max(float(c.mean()) for c in corners),
        "busiest corner": max(float(c.std()) for c in corners),
    }


def texture(film: NDArray[np.uint8]) -> dict[str, float]:
    """Texture and edges of uint8 [H, W] at 224 x 224 px, so that films of any size are compared alike."""
    small = np.asarray(cv2.resize(film, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), dtype=np.float32)
    across, along = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    removed = small - cv2.GaussianBlur(small, (0, 0), 1.0)
    shares = np.bincount(local_binary_patterns(small).ravel(), minlength=256) / (_SIDE - 2) ** 2
    seen = shares[shares > 0]
    return {
        "LBP entropy": float(-(seen * np.log2(seen)).sum()),
        "edge strength": float(np.hypot(across, along).mean()),
        "sharpness": float(cv2.Laplacian(small, cv2.CV_32F).std()),
        "fine detail": float(removed.std() / max(1.0, float(small.std()))),
    }


def local_binary_patterns(film: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [H - 2, W - 2]: bit k says whether neighbour k (clockwise from the upper left) is at least as bright as the pixel."""
    height, width = film.shape
    centre = film[1:-1, 1:-1]
    places = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    codes = np.zeros(centre.shape, dtype=np.uint8)
    for bit, (row, column) in enumerate(places):
        neighbour = film[row : row + height - 2, column : column + width - 2]
        codes |= (neighbour >= centre).astype(np.uint8) << np.uint8(bit)
    return codes
