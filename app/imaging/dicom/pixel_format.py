"""The image pixel module, checked in Python integers before any pixel is touched.

Source: PS3.3 C.7.6.3 (image pixel module), PS3.5 section 8. Taken: one frame; one sample of 8 to 16 bits stored, signed or not, or three
samples of 8 bits; the high bit one less than the bits stored. Fewer than 8 bits hold no film.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from app.errors import ImageError
from app.imaging.dicom.transfer_syntax import TransferSyntax
from app.imaging.dicom.values import Header
from app.imaging.dicom.walk import PIXEL_DATA, malformed
from app.imaging.header import ImageLimits, check_sides

MONOCHROME: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOR_NATIVE = ("RGB", "YBR_FULL", "YBR_FULL_422")
_COLOR_COMPRESSED = (*_COLOR_NATIVE, "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")
_COLOR_REFUSED = {
    "PALETTE COLOR": "PALETTE COLOR",
    "HSV": "HSV",
    "ARGB": "ARGB",
    "CMYK": "CMYK",
    "XYB": "XYB",
    "YBR_PARTIAL_420": "YBR_PARTIAL_420, not compressed",
    "YBR_PARTIAL_422": "YBR_PARTIAL_422, not compressed",
    "YBR_ICT": "YBR_ICT, not compressed",
    "YBR_RCT": "YBR_RCT, not compressed",
}

_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH, _SIGNED = (
    0x00280010,
    0x00280011,
    0x00280100,
    0x00280101,
    0x00280102,
    0x00280103,
)
_FLOAT, _DOUBLE = 0x7FE00008, 0x7FE00009
_SOP_CLASS, _MODALITY = 0x00080016, 0x00080060

_NO_IMAGES = (  # SOP classes by prefix, longest first, to name the refusal
    ("1.2.840.10008.5.1.4.1.1.88.59", "a key object selection"),
    ("1.2.840.10008.5.1.4.1.1.88.", "a structured report"),
    ("1.2.840.10008.5.1.4.1.1.104.", "an encapsulated document"),
    ("1.2.840.10008.5.1.4.1.1.11.", "a presentation state"),
    ("1.2.840.10008.5.1.4.1.1.481.", "a radiotherapy object"),
    ("1.2.840.10008.5.1.4.1.1.9.", "a waveform"),
    ("1.2.840.10008.5.1.4.1.1.66", "raw or derived data"),
    ("1.2.840.10008.1.3.10", "a directory of files"),
)


@dataclass(frozen=True)
class PixelFormat:
    """rows, columns: px; samples 1 or 3; planar: 0 by pixel, 1 by plane; bits_allocated 8 or 16; high bit = bits_stored - 1."""

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def native_bytes(self) -> int:
        """Exact length of uncompressed pixel data; YBR_FULL_422 shares a pair of color values between two pixels (PS3.5 8.2)."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * (self.bits_allocated // 8)


def read_pixel_format(header: Header, syntax: TransferSyntax, limits: ImageLimits) -> PixelFormat:
    """What the header declares, all of it checked.

    Raises:
        ImageError: `dicom_without_image`, `multi_frame_image`, `unsupported_pixel_format`, `unsupported_color`, `image_too_large`,
            `malformed_dicom` (absent, wrong VR, wrong multiplicity, contradictions).
        RefusedError: `too_small`.
    """
    _check_object(header)
    rows, columns = _required(header, _ROWS, "the number of rows"), _required(header, _COLUMNS, "the number of columns")
    if not rows or not columns:
        raise malformed("a side of its image is zero")
    check_sides(columns, rows, replace(limits, max_px=limits.dicom_max_px))
    samples = _required(header, _SAMPLES, "the number of samples per pixel")
    photometric = _photometric(header, samples, syntax)
    planar = header.us(_PLANAR, "the planar configuration")
    if samples == 3 and planar not in (0, 1):
        raise malformed("the planar configuration is absent or not 0 or 1")
    if photometric == "YBR_FULL_422" and not syntax.encapsulated and (columns % 2 or planar):
        raise malformed("its color samples do not fit YBR_FULL_422")
    allocated, stored, signed = _bits(header, samples)
    return PixelFormat(rows, columns, samples, photometric, planar or 0, allocated, stored, signed)


def _check_object(header: Header) -> None:
    """One frame of integer pixel data."""
    if _FLOAT in header or _DOUBLE in header:
        raise ImageError("unsupported_pixel_format", what="floating-point values")
    if PIXEL_DATA not in header:
        sop_class = header.uid(_SOP_CLASS)
        kind = next((kind for prefix, kind in _NO_IMAGES if sop_class.startswith(prefix)), "without pixel data")
        raise ImageError("dicom_without_image", what=kind)
    frames = header.integer(_FRAMES, "the number of frames")
    if frames is not None and frames < 1:
        raise malformed("the number of frames is not positive")
    if frames is not None and frames > 1:
        raise ImageError("multi_frame_image", count=frames)


def _photometric(header: Header, samples: int, syntax: TransferSyntax) -> str:
    words = header.words(_PHOTOMETRIC)
    if len(words) != 1 or header.vr(_PHOTOMETRIC) not in ("CS", ""):
        raise malformed("the photometric interpretation is not one word")
    (word,) = words
    if word in MONOCHROME:
        if samples != 1:
            raise malformed("a gray image has other than one sample per pixel")
    elif word in (_COLOR_COMPRESSED if syntax.encapsulated else _COLOR_NATIVE):
        if samples != 3:
            raise malformed("a color image has other than three samples per pixel")
    else:
        raise ImageError(
            "unsupported_color", what=_COLOR_REFUSED.get(word, "of a photometric interpretation not known")
        )
    return word


def _bits(header: Header, samples: int) -> tuple[int, int, bool]:
    """Bits allocated, bits stored, signed (PS3.5 section 8.1.1)."""
    allocated = _required(header, _ALLOCATED, "the number of bits allocated")
    stored = _required(header, _STORED, "the number of bits stored")
    high = _required(header, _HIGH, "the high bit")
    representation = _required(header, _SIGNED, "the pixel representation")
    if representation not in (0, 1):
        raise malformed("the pixel representation is not 0 or 1")
    if not 1 <= stored <= allocated or high >= allocated:
        raise malformed("its numbers of bits contradict each other")
    if allocated not in (8, 16):
        raise ImageError("unsupported_pixel_format", what=f"{allocated} bits allocated; 8 and 16 are taken")
    if stored < 8:
        raise ImageError("unsupported_pixel_format", what=f"{stored} bits stored; 8 to 16 are taken")
    if high != stored - 1:
        raise ImageError("unsupported_pixel_format", what="its bits not at the low end of the word")
    if samples == 3 and (allocated != 8 or representation):
        raise ImageError("unsupported_pixel_format", what="color samples other than unsigned 8 bits")
    return allocated, stored, bool(representation)


def _required(header: Header, tag: int, what: str) -> int:
    value = header.us(tag, what)
    if value is None:
        raise malformed(f"{what} is absent")
    return value
