"""A DICOM file to a film for display: walk, check, decode, transform, describe; in this order and nothing before its check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import Acquisition, FilmDisplay, Source
from app.errors import ImageError
from app.imaging.dicom.attributes import acquisition, source
from app.imaging.dicom.frame import FrameDecoder, FrameRequest
from app.imaging.dicom.gray import luma, pattern_counts, through_table
from app.imaging.dicom.luts import display_table
from app.imaging.dicom.native import check_decoded, native_samples
from app.imaging.dicom.part10 import read_part10
from app.imaging.dicom.pixel_format import PixelFormat, read_pixel_format
from app.imaging.dicom.transfer_syntax import RLE_LOSSLESS
from app.imaging.dicom.values import Header
from app.imaging.dicom.walk import DataSet, malformed
from app.imaging.header import ImageLimits
from app.imaging.memory import working_memory


@dataclass(frozen=True)
class DicomFilm:
    """pixels: display values, uint8 [rows, columns], higher = brighter; how the film was taken, whose it is, how it is shown."""

    pixels: NDArray[np.uint8]
    acquisition: Acquisition
    source: Source
    display: FilmDisplay | None


def read_dicom(data: memoryview, limits: ImageLimits, decoder: FrameDecoder | None) -> DicomFilm:
    """Decode a DICOM film.

    Args:
        data: the file as received; only read.
        decoder: for compressed transfer syntaxes; without one they are refused.

    Raises:
        ImageError: coded 4xx; the file is not a DICOM film that is taken.
        RefusedError: `too_small`.
    """
    dataset = read_part10(data, limits)
    header = Header(dataset)
    pixel_format = read_pixel_format(header, dataset.syntax, limits)
    with working_memory(_working_bytes(dataset, pixel_format)):
        samples = _samples(dataset, pixel_format, decoder)
        if pixel_format.samples == 3:
            pixels, method, shown = luma(samples), "full_range", None
        else:
            display = display_table(
                header, pixel_format, lambda: pattern_counts(samples, 1 << pixel_format.bits_stored)
            )
            pixels, method, shown = through_table(samples, display.table), display.method, display.shown
    return DicomFilm(
        pixels,
        acquisition(header, pixel_format, dataset.syntax, method),
        source(header, pixel_format, dataset.syntax),
        shown,
    )


def _samples(dataset: DataSet, pixel_format: PixelFormat, decoder: FrameDecoder | None) -> NDArray[Any]:
    if not dataset.syntax.encapsulated:
        return native_samples(dataset, pixel_format)
    request = _request(dataset, pixel_format)
    if decoder is None:
        raise ImageError("unsupported_transfer_syntax", what=dataset.syntax.name)
    return check_decoded(decoder.decode(request), pixel_format)


def _request(dataset: DataSet, pixel_format: PixelFormat) -> FrameRequest:
    """The one frame's fragments joined; RLE has exactly one (PS3.5 A.4.2)."""
    if dataset.syntax is RLE_LOSSLESS and len(dataset.fragments) != 1:
        raise malformed("a run-length frame must be one fragment")
    return FrameRequest(
        transfer_syntax=dataset.syntax.uid,
        codestream=b"".join(dataset.data[start:end] for start, end in dataset.fragments),
        rows=pixel_format.rows,
        columns=pixel_format.columns,
        samples=pixel_format.samples,
        bits_allocated=pixel_format.bits_allocated,
        bits_stored=pixel_format.bits_stored,
        signed=pixel_format.signed,
        photometric=pixel_format.photometric,
        planar=pixel_format.planar,
    )


def _working_bytes(dataset: DataSet, pixel_format: PixelFormat) -> int:
    """The display values; of compressed films also the decoded samples and the joined fragments."""
    area = pixel_format.rows * pixel_format.columns
    if not dataset.syntax.encapsulated:
        return area
    stream = sum(end - start for start, end in dataset.fragments)
    return area + area * pixel_format.samples * (pixel_format.bits_allocated // 8) + stream
