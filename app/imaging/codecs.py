"""The only two calls of an image decoder in the service's own process; a test greps for any other.

Both get bytes that a header walk has passed. Neither ever sees a palette, transparency, text, profile or animation chunk.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from app.errors import ImageError
from app.imaging.jpeg_header import JpegHeader
from app.imaging.png_header import GRAY, GRAY_ALPHA, PALETTE, RGB, PngHeader

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_STRIP_ROWS = 256
_LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601 section 2.5.1, the weights OpenCV uses as well."""


def decode_jpeg_gray(data: memoryview, header: JpegHeader, *, reduced: bool = False) -> NDArray[np.uint8]:
    """The luminance of a JPEG, uint8 [H, W]. A decoder's warning counts as damage, so a film is whole or refused.

    Y of YCbCr, as stored; RGB files (Adobe marker) become ITU-R 601 luma.

    Args:
        reduced: at half of its size, uint8 [ceil(H / 2), ceil(W / 2)], by inverting the low half of each block's frequencies.

    Raises:
        ImageError: `truncated_image` or `malformed_image`.
    """
    height, width = (-(-header.height // 2), -(-header.width // 2)) if reduced else (header.height, header.width)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace="GRAY", min_height=height, min_width=width, strict=True
        )
    except ValueError as error:
        if "remature end" in str(error):
            raise ImageError("truncated_image") from error
        raise ImageError("malformed_image", what="its compressed data are wrong") from error
    _check_shape(pixels, height, width)
    return pixels[:, :, 0]


def decode_png_gray(data: memoryview, header: PngHeader) -> Pixels:
    """A PNG as gray values [H, W]: uint16 where the file has 16 bits (all of them kept), else uint8.

    1, 2 and 4 bits are spread over 0..255 (exact: 255, 85, 17 per step); RGB becomes ITU-R 601 luma; transparent parts are
    laid on black.

    Raises:
        ImageError: `malformed_image` (also a palette index without an entry) or `truncated_image`.
    """
    pixels = _read_png(_rebuilt(data, header))
    _check_shape(pixels, header.height, header.width)
    if header.color_type == PALETTE:
        return _look_up(pixels, header)
    if header.color_type == GRAY:
        return _without_gray_key(pixels, header)
    if header.color_type == RGB:
        return _without_rgb_key(pixels, header)
    return _on_black(pixels, gray=header.color_type == GRAY_ALPHA)


def _rebuilt(data: memoryview, header: PngHeader) -> bytes:
    """A PNG of IHDR, the file's IDAT chunks as they stand, and IEND: the one copy of the file that is made.

    The walk has checked the chunks' checksums. A palette image is declared gray: its samples are then the palette's indices.
    """
    color = GRAY if header.color_type == PALETTE else header.color_type
    ihdr = struct.pack(">IIBBBBB", header.width, header.height, header.bit_depth, color, 0, 0, int(header.interlaced))
    stream = (data[start - 8 : end + 4] for start, end in header.stream)  # with length, name and checksum
    return b"".join((b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", ihdr), *stream, _chunk(b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> bytes:
    """PNG (third edition) section 5.3."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _read_png(png: bytes) -> Pixels:
    try:
        pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError("malformed_image", what="its compressed data are wrong") from error
    if pixels is None:  # the decoder does not say whether the stream was short or wrong
        raise ImageError("malformed_image", what="its compressed data are wrong or end too early")
    return as_pixels(pixels)


def _check_shape(pixels: NDArray[Any], height: int, width: int) -> None:
    if pixels.shape[:2] != (height, width):
        raise ImageError("malformed_image", what="its header and its data disagree")


def as_pixels(array: NDArray[Any]) -> Pixels:
    """The same array with its type told: uint16 stays, all else is uint8."""
    if array.dtype == np.uint16:
        return np.asarray(array, np.uint16)
    return np.asarray(array, np.uint8)


def _look_up(samples: Pixels, header: PngHeader) -> NDArray[np.uint8]:
    """Palette entries as gray on black; `samples` are indices spread over 0..255 by the decoder."""
    step = {1: 255, 2: 85, 4: 17, 8: 1}[header.bit_depth]
    entries = len(header.palette) // 3
    if int(samples.max()) // step >= entries:
        raise ImageError("malformed_image", what="a pixel points beyond the palette")
    rgb = np.frombuffer(header.palette, np.uint8).reshape(entries, 3).astype(np.float64)
    alpha = np.full(entries, 255.0)
    alpha[: len(header.transparency)] = np.frombuffer(header.transparency, np.uint8)
    table = np.zeros(256, np.uint8)
    table[np.arange(entries) * step] = np.rint((rgb @ _LUMA) * (alpha / 255.0)).astype(np.uint8)
    return np.asarray(cv2.LUT(samples, table), np.uint8)


def _without_gray_key(pixels: Pixels, header: PngHeader) -> Pixels:
    if not header.transparency:
        return pixels
    step = {1: 255, 2: 85, 4: 17, 8: 1, 16: 1}[header.bit_depth]
    key = int.from_bytes(header.transparency, "big") & (2**header.bit_depth - 1)
    result = pixels.copy()
    result[result == key * step] = 0
    return result


def _without_rgb_key(bgr: Pixels, header: PngHeader) -> Pixels:
    gray = as_pixels(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY))
    if header.transparency:
        mask = 2**header.bit_depth - 1
        red, green, blue = (value & mask for value in struct.unpack(">HHH", header.transparency))
        for top in range(0, header.height, _STRIP_ROWS):
            rows = slice(top, top + _STRIP_ROWS)
            gray[rows][(bgr[rows] == (blue, green, red)).all(axis=2)] = 0
    return gray


def _on_black(bgra: Pixels, *, gray: bool) -> Pixels:
    """round(luma * alpha / full), in strips so that the working copies stay small; the product fits 32 bits, `full` is odd."""
    full = 255 if bgra.dtype == np.uint8 else 65_535
    result = np.empty(bgra.shape[:2], bgra.dtype)
    for top in range(0, bgra.shape[0], _STRIP_ROWS):
        rows = bgra[top : top + _STRIP_ROWS]
        luma = rows[:, :, 0] if gray else cv2.cvtColor(rows, cv2.COLOR_BGRA2GRAY)
        product = luma.astype(np.uint32) * rows[:, :, 3]
        result[top : top + _STRIP_ROWS] = (product + full // 2) // full
    return result
