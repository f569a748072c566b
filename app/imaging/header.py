"""What the header walks have in common: what they report, and the rules about sides and about bytes after the end.

The walks use Python integers only and run before any C decoder sees the bytes; every loop in them is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.errors import ImageError, RefusedError

_PADDING = b"\x00\t\n\r "


@dataclass(frozen=True)
class ImageLimits:
    """Accepted sides of an image, px: the shorter at least `min_px`, the longer at most `max_px` (JPEG, PNG) or `dicom_max_px`;
    and accepted bytes of a file: `max_bytes` (JPEG, PNG) or `dicom_max_bytes`, which also bounds what a deflated one becomes."""

    min_px: int
    max_px: int
    dicom_max_px: int = 8_192
    dicom_max_bytes: int = 64_000_000
    max_bytes: int = 10_000_000


def check_sides(width: int, height: int, limits: ImageLimits) -> None:
    """Refuse an image by its declared sides (px).

    Raises:
        ImageError: `malformed_image` for a zero side, `image_too_large`.
        RefusedError: `too_small`.
    """
    if width <= 0 or height <= 0:
        raise ImageError("malformed_image", what="a side is zero")
    if max(width, height) > limits.max_px:
        raise ImageError("image_too_large", width=width, height=height, limit=limits.max_px)
    if min(width, height) < limits.min_px:
        raise RefusedError("too_small", width=width, height=height, limit=limits.min_px)


def check_trailer(data: memoryview, end: int) -> None:
    """Nothing may follow the image but padding: zero bytes, blanks and line ends, as some archives append.

    Raises:
        ImageError: `trailing_data` with the number of bytes after `end`.
    """
    if data[end : end + 4096].tobytes().strip(_PADDING) or data[end:].tobytes().strip(_PADDING):
        raise ImageError("trailing_data", count=len(data) - end)
