"""Bytes to a Radiograph: sniff, walk the header, bound, decode, turn upright (pictures) or transform for display (DICOM).

A new picture format joins by one entry in `sniff` and one in `_PICTURES`. The file is hashed here too, so that whoever decodes on a
worker thread hashes there; both let other threads run meanwhile. The file is never copied, but for a PNG's pixel stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.bundle.input_spec import InputSpec
from app.domain import Radiograph
from app.errors import ImageError
from app.imaging.codecs import Pixels, as_pixels, decode_jpeg_gray, decode_png_gray
from app.imaging.dicom.frame import FrameDecoder
from app.imaging.dicom.read import read_dicom
from app.imaging.header import ImageLimits
from app.imaging.jpeg_header import read_jpeg_header
from app.imaging.memory import working_memory
from app.imaging.png_header import GRAY, PALETTE, RGB, read_png_header
from app.imaging.reduced import is_reduced, mirrored, upright_sides
from app.imaging.sniff import Format, sniff
from app.imaging.threads import limit_threads

__all__ = ["ImageLimits", "decode", "limit_threads"]


@dataclass(frozen=True)
class _Picture:
    """pixels: as stored; orientation: EXIF 1..8; reduced_from: height and width of the upright film, px, where pixels are half of it."""

    pixels: Pixels
    orientation: int
    reduced_from: tuple[int, int] | None = None


def decode(
    data: bytes | bytearray | memoryview,
    limits: ImageLimits,
    decoder: FrameDecoder | None = None,
    network: InputSpec | None = None,
) -> Radiograph:
    """Decode a JPEG, a PNG or a DICOM film into one upright gray channel.

    Args:
        data: the file as received; only read.
        limits: accepted bytes, and sides in px, applied to the header before a decoder is opened.
        decoder: for compressed DICOM; without one it is refused with `unsupported_transfer_syntax`.
        network: what the film is decoded for; where it allows a reduced decode, by the rule of `app.imaging.reduced`. None: in full.

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
    picture = _PICTURES[kind](view, limits, network)
    return Radiograph(
        pixels=_upright(picture.pixels, picture.orientation),
        sha256=hashlib.sha256(view).hexdigest(),
        format=kind,
        reduced_from=picture.reduced_from,
    )


def _jpeg(data: memoryview, limits: ImageLimits, network: InputSpec | None) -> _Picture:
    header = read_jpeg_header(data, limits)
    area = header.width * header.height
    reduced = is_reduced(header, network)
    # a progressive decoder holds every coefficient of every component as 16 bits, at any size of its picture
    with working_memory((area // 4 if reduced else area) + (2 * header.components * area if header.progressive else 0)):
        pixels = decode_jpeg_gray(data, header, reduced=reduced)
    return _Picture(pixels, header.orientation, upright_sides(header) if reduced else None)


def _png(data: memoryview, limits: ImageLimits, _: InputSpec | None) -> _Picture:
    header = read_png_header(data, limits)
    channels = {GRAY: 1, PALETTE: 1, RGB: 3}.get(header.color_type, 4)
    decoded = header.width * header.height * channels * (2 if header.bit_depth == 16 else 1)
    with working_memory(2 * decoded):  # the decoder's own copy and ours
        return _Picture(decode_png_gray(data, header), header.orientation)


_PICTURES: dict[Format, Callable[[memoryview, ImageLimits, InputSpec | None], _Picture]] = {"jpeg": _jpeg, "png": _png}


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the EXIF orientation (Exif 2.32, tag 0x0112: where row 0 and column 0 of the stored image lie on the picture).

    No copy where the picture is upright as it is stored.
    """
    if orientation >= 5:
        pixels = pixels.T
    rows, columns = (slice(None, None, -1 if backwards else 1) for backwards in mirrored(orientation))
    return as_pixels(np.ascontiguousarray(pixels[rows, columns]))
