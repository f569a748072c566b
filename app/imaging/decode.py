"""Bytes to a Radiograph: sniff, walk the header, bound, decode, turn upright.

A new format joins by one entry in `sniff` and one in `_READERS`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from app.domain import Radiograph
from app.imaging.codecs import Pixels, as_pixels, decode_jpeg_gray, decode_png_gray
from app.imaging.header import ImageLimits
from app.imaging.jpeg_header import read_jpeg_header
from app.imaging.png_header import GRAY, PALETTE, RGB, read_png_header
from app.imaging.sniff import Format, sniff

__all__ = ["ImageLimits", "decode", "limit_threads"]

LARGE_DECODE_BYTES = 64_000_000
"""Decodes that need more working memory than this pass one at a time, whatever the number of workers."""

_one_large = threading.BoundedSemaphore(1)


def limit_threads() -> None:
    """One thread per call for OpenCV: the service's workers are the parallelism. Called once, by the composition root."""
    cv2.setNumThreads(1)


def decode(data: bytes | bytearray | memoryview, limits: ImageLimits) -> Radiograph:
    """Decode a JPEG or PNG into one upright gray channel.

    Args:
        data: the file as received; only read.
        limits: accepted sides, px, applied to the header before a decoder is opened.

    Returns:
        pixels uint8 [H, W] (16-bit PNG: uint16, stored values unscaled), the SHA-256 of `data`, the sniffed format.

    Raises:
        ImageError: coded 4xx; the bytes are not an image that is taken.
        RefusedError: `too_small`.
    """
    view = memoryview(data).cast("B")
    kind = sniff(view[:256].tobytes())
    pixels, orientation = _READERS[kind](view, limits)
    return Radiograph(pixels=_upright(pixels, orientation), sha256=hashlib.sha256(view).hexdigest(), format=kind)


def _jpeg(data: memoryview, limits: ImageLimits) -> tuple[Pixels, int]:
    header = read_jpeg_header(data, limits)
    area = header.width * header.height
    # a progressive decoder holds every coefficient of every component as 16 bits
    with _memory(area + (2 * header.components * area if header.progressive else 0)):
        return decode_jpeg_gray(data, header), header.orientation


def _png(data: memoryview, limits: ImageLimits) -> tuple[Pixels, int]:
    header = read_png_header(data, limits)
    channels = {GRAY: 1, PALETTE: 1, RGB: 3}.get(header.color_type, 4)
    decoded = header.width * header.height * channels * (2 if header.bit_depth == 16 else 1)
    with _memory(2 * decoded):  # the decoder's own copy and ours
        return decode_png_gray(data, header), header.orientation


_READERS: dict[Format, Callable[[memoryview, ImageLimits], tuple[Pixels, int]]] = {"jpeg": _jpeg, "png": _png}


@contextmanager
def _memory(needed_bytes: int) -> Iterator[None]:
    if needed_bytes <= LARGE_DECODE_BYTES:
        yield
    else:
        with _one_large:
            yield


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the EXIF orientation (Exif 2.32, tag 0x0112: where row 0 and column 0 of the stored image lie on the picture)."""
    if orientation >= 5:
        pixels = pixels.T
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return as_pixels(np.ascontiguousarray(pixels[rows, columns]))
