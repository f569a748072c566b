"""Bytes to a Radiograph: sniff, walk the header, bound, decode, turn upright (pictures) or transform for display (DICOM).

A new picture format joins by one entry in `sniff` and one in `_PICTURES`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import cv2
import numpy as np

from app.domain import Radiograph
from app.errors import ImageError
from app.imaging.codecs import Pixels, as_pixels, decode_jpeg_gray, decode_png_gray
from app.imaging.dicom.frame import FrameDecoder
from app.imaging.dicom.read import read_dicom
from app.imaging.header import ImageLimits
from app.imaging.jpeg_header import read_jpeg_header
from app.imaging.memory import working_memory
from app.imaging.png_header import GRAY, PALETTE, RGB, read_png_header
from app.imaging.sniff import Format, sniff

__all__ = ["ImageLimits", "decode", "limit_threads"]


def limit_threads() -> None:
    """One thread per call for OpenCV: the service's workers are the parallelism. Called once, by the composition root."""
    cv2.setNumThreads(1)


def decode(
    data: bytes | bytearray | memoryview, limits: ImageLimits, decoder: FrameDecoder | None = None
) -> Radiograph:
    """Decode a JPEG, a PNG or a DICOM film into one upright gray channel.

    Args:
        data: the file as received; only read.
        limits: accepted bytes, and sides in px, applied to the header before a decoder is opened.
        decoder: for compressed DICOM; without one it is refused with `unsupported_transfer_syntax`.

    Returns:
        pixels uint8 [H, W] (16-bit PNG: uint16, stored values unscaled; DICOM: display values), the SHA-256 of `data`, the sniffed
        format; for DICOM what its header says.

    Raises:
        ImageError: coded 4xx; the bytes are not an image that is taken.
        RefusedError: `too_small`.
    """
    view = memoryview(data).cast("B")
    kind = sniff(view[:256].tobytes())
    if kind == "dicom":
        film = read_dicom(view, limits, decoder)
        sha256 = hashlib.sha256(view).hexdigest()
        return Radiograph(film.pixels, sha256, kind, film.acquisition, film.source, film.display)
    if len(view) > limits.max_bytes:
        raise ImageError("payload_too_large", what="image", limit=limits.max_bytes)
    pixels, orientation = _PICTURES[kind](view, limits)
    return Radiograph(pixels=_upright(pixels, orientation), sha256=hashlib.sha256(view).hexdigest(), format=kind)


def _jpeg(data: memoryview, limits: ImageLimits) -> tuple[Pixels, int]:
    header = read_jpeg_header(data, limits)
    area = header.width * header.height
    # a progressive decoder holds every coefficient of every component as 16 bits
    with working_memory(area + (2 * header.components * area if header.progressive else 0)):
        return decode_jpeg_gray(data, header), header.orientation


def _png(data: memoryview, limits: ImageLimits) -> tuple[Pixels, int]:
    header = read_png_header(data, limits)
    channels = {GRAY: 1, PALETTE: 1, RGB: 3}.get(header.color_type, 4)
    decoded = header.width * header.height * channels * (2 if header.bit_depth == 16 else 1)
    with working_memory(2 * decoded):  # the decoder's own copy and ours
        return decode_png_gray(data, header), header.orientation


_PICTURES: dict[Format, Callable[[memoryview, ImageLimits], tuple[Pixels, int]]] = {"jpeg": _jpeg, "png": _png}


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the EXIF orientation (Exif 2.32, tag 0x0112: where row 0 and column 0 of the stored image lie on the picture)."""
    if orientation >= 5:
        pixels = pixels.T
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return as_pixels(np.ascontiguousarray(pixels[rows, columns]))
