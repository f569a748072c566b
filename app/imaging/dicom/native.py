"""Uncompressed pixel data as an array of stored values, without a copy where the bytes lie right.

Source: PS3.5 section 8.1.1, 8.2 and Annex A.1 to A.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import ImageError
from app.imaging.dicom.pixel_format import PixelFormat
from app.imaging.dicom.walk import PIXEL_DATA, DataSet, malformed


def native_bytes(dataset: DataSet, pixel_format: PixelFormat) -> memoryview:
    """The bytes of uncompressed pixel data; a pad byte may follow an odd number of them.

    Raises:
        ImageError: `malformed_dicom` where their number is not exactly what the header implies, or their VR cannot hold them.
    """
    element = dataset.elements[PIXEL_DATA]
    needed = pixel_format.native_bytes
    if element.end - element.start != needed + needed % 2 and element.end - element.start != needed:
        raise malformed("its pixel data do not have the length that its header implies")
    big_words = not dataset.syntax.little and pixel_format.bits_allocated == 16
    if element.vr not in ("OW", "") and (element.vr != "OB" or big_words):
        raise malformed("its pixel data have a wrong value representation")
    return dataset.data[element.start : element.end]


def native_samples(dataset: DataSet, pixel_format: PixelFormat) -> NDArray[Any]:
    """Stored samples as unsigned bit patterns: [rows, columns] of uint8 or uint16 (in the file's byte order), or for color the luma
    channel's or all samples' uint8 [rows, columns] or [rows, columns, 3]; see `gray.luma`.

    Raises:
        ImageError: as `native_bytes`.
    """
    data = native_bytes(dataset, pixel_format)
    rows, columns = pixel_format.rows, pixel_format.columns
    if pixel_format.bits_allocated == 16:
        return np.frombuffer(data, "<u2" if dataset.syntax.little else ">u2").reshape(rows, columns)
    samples = np.frombuffer(data, np.uint8)
    if not dataset.syntax.little and dataset.elements[PIXEL_DATA].vr == "OW":
        if len(samples) % 2:
            raise malformed("its pixel data are words, but of an odd number of bytes")
        samples = samples.reshape(-1, 2)[:, ::-1].reshape(-1)  # PS3.5 section 8.2: pairs of bytes as big endian words
    samples = samples[: pixel_format.native_bytes]
    if pixel_format.samples == 1:
        return samples.reshape(rows, columns)
    return _color(samples, pixel_format)


def _color(samples: NDArray[np.uint8], pixel_format: PixelFormat) -> NDArray[np.uint8]:
    """RGB as [rows, columns, 3]; of YBR only Y, [rows, columns] (PS3.3 C.7.6.3.1.2)."""
    rows, columns = pixel_format.rows, pixel_format.columns
    if pixel_format.photometric == "YBR_FULL_422":  # Y Y Cb Cr for each pair of pixels
        return samples.reshape(-1, 4)[:, :2].reshape(rows, columns)
    if pixel_format.planar:
        planes = samples.reshape(3, rows, columns)
        return planes[0] if pixel_format.photometric == "YBR_FULL" else np.moveaxis(planes, 0, 2)
    pixels = samples.reshape(rows, columns, 3)
    return pixels[:, :, 0] if pixel_format.photometric == "YBR_FULL" else pixels


def check_decoded(pixels: NDArray[Any], pixel_format: PixelFormat) -> NDArray[Any]:
    """What a decoder gave back, as unsigned bit patterns, if it is what the header declares.

    Raises:
        ImageError: `undecodable_image`.
    """
    shape = (pixel_format.rows, pixel_format.columns) + ((3,) if pixel_format.samples == 3 else ())
    if (
        pixels.shape != shape
        or pixels.dtype.kind not in "ui"
        or pixels.dtype.itemsize * 8 != pixel_format.bits_allocated
    ):
        raise ImageError("undecodable_image", what="the decoder gave other samples than the header declares")
    return pixels.view(f"u{pixels.dtype.itemsize}")
