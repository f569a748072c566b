"""Stored values to display values: modality, VOI and presentation transformations, as one table of at most 65,536 entries.

A film has at most 2^16 different stored values, so each step is computed once per value and not once per pixel, in float64 and
rounded once. Order of PS3.4 N.2: stored value -> modality LUT or rescale (PS3.3 C.11.1) -> VOI LUT or window (C.11.2) -> presentation
LUT shape or MONOCHROME1 (C.11.6, C.7.6.3.1.2) -> 0..255. Padding (C.7.5.1.1.2) becomes black and takes no part in statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from app.domain import FilmDisplay, VoiFunction
from app.errors import ImageError
from app.imaging.dicom.pixel_format import PixelFormat
from app.imaging.dicom.values import Header
from app.imaging.dicom.walk import malformed

DARKEST, BRIGHTEST = 0.005, 0.995
"""Shares of the pixels (padding left out) at which the default display range begins and ends."""

_PADDING, _PADDING_LIMIT = 0x00280120, 0x00280121
_CENTER, _WIDTH, _FUNCTION = 0x00281050, 0x00281051, 0x00281056
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053
_MODALITY_LUT, _VOI_LUT, _DESCRIPTOR, _DATA = 0x00283000, 0x00283010, 0x00283002, 0x00283006
_SHAPE = 0x20500020

Histogram = Callable[[], NDArray[np.int64]]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A VOI window in modality values; function as in VOI LUT Function (0028,1056)."""

    center: float
    width: float
    function: VoiFunction


_FUNCTIONS: Final[tuple[VoiFunction, ...]] = get_args(VoiFunction)
FULL_RANGE: Final = Window(128.0, 256.0, "LINEAR")  # shows 0..255 as they are


@dataclass(frozen=True)
class Display:
    """table: uint8 [2^bits_stored], the gray level of each stored bit pattern; method: the VOI step taken, as in `Acquisition`; shown:
    the same as a rescale and a window, None where there was a LUT."""

    table: NDArray[np.uint8]
    method: str
    shown: FilmDisplay | None


def display_table(header: Header, pixel_format: PixelFormat, histogram: Histogram) -> Display:
    """The whole pipeline for a gray image.

    Args:
        histogram: number of pixels per stored bit pattern [2^bits_stored]; asked for only where the header has no VOI.

    Raises:
        ImageError: `malformed_dicom` where a step's elements cannot be carried out as they stand.
    """
    stored = stored_values(pixel_format)
    padding = padded(header, stored, signed=pixel_format.signed)
    values, changed = modality_values(header, stored, signed=pixel_format.signed)
    gray = voi_lut(header, values)
    method, applied = "voi_lut", None
    if gray is None:
        applied = _header_window(header)
        if applied is not None:
            method = f"window_{applied.function.lower()}"
        elif pixel_format.bits_stored == 8 and not pixel_format.signed and not changed:
            method, applied = "full_range", FULL_RANGE  # 8 bits without any VOI are display values already
        else:
            method, applied = "percentile", percentile_window(values, np.where(padding, 0, histogram()))
        gray = np.zeros(len(values)) if applied is None else window(values, applied)
    inverse = is_inverted(header, pixel_format.photometric)
    if inverse:
        gray = 1.0 - gray
    gray = np.where(padding, 0.0, gray)
    return Display(np.rint(gray * 255.0).astype(np.uint8), method, _shown(header, applied, inverse=inverse))


def _shown(header: Header, applied: Window | None, *, inverse: bool) -> FilmDisplay | None:
    if applied is None or header.items(_MODALITY_LUT):
        return None
    slope, intercept = (
        (header.decimals(tag, "the rescale") or (default,))[0] for tag, default in ((_SLOPE, 1.0), (_INTERCEPT, 0.0))
    )
    return FilmDisplay(slope, intercept, applied.center, applied.width, applied.function, inverse)


def stored_values(pixel_format: PixelFormat) -> Values:
    """The number that each bit pattern 0 .. 2^bits_stored - 1 means: two's complement within the bits stored where signed."""
    full = 1 << pixel_format.bits_stored
    patterns = np.arange(full)
    if pixel_format.signed:
        patterns = np.where(patterns >= full // 2, patterns - full, patterns)
    return patterns.astype(np.float64)


def padded(header: Header, stored: Values, *, signed: bool) -> NDArray[np.bool_]:
    """Which stored values are padding: the pixel padding value, or all from it to the range limit, both included.

    The VR of these elements is wrong in many files; the bits are read with the sign of the pixels.
    """
    first = _padding_value(header, _PADDING, signed=signed)
    if first is None:
        return np.zeros(len(stored), np.bool_)
    last = _padding_value(header, _PADDING_LIMIT, signed=signed)
    low, high = sorted((first, first if last is None else last))
    return (stored >= low) & (stored <= high)


def _padding_value(header: Header, tag: int, *, signed: bool) -> int | None:
    values = header.shorts(tag, "the pixel padding value", signed=signed)
    if not values:
        return None
    if len(values) > 1:
        raise malformed("the pixel padding value is not one number")
    bits = values[0] & 0xFFFF
    return bits - 0x10000 if signed and bits & 0x8000 else bits


def modality_values(header: Header, stored: Values, *, signed: bool) -> tuple[Values, bool]:
    """Values after the modality LUT, or slope * stored + intercept (PS3.3 C.11.1); and whether they differ from the stored ones.

    Raises:
        ImageError: `malformed_dicom` for a damaged LUT, several of them, half a rescale, or a slope of zero.
    """
    tables = header.items(_MODALITY_LUT)
    slope, intercept = (
        header.decimals(_SLOPE, "the rescale slope"),
        header.decimals(_INTERCEPT, "the rescale intercept"),
    )
    if tables:
        if len(tables) > 1:
            raise malformed("it has several modality LUTs")
        values, _ = _looked_up(tables[0], stored, signed=signed)
        return values, True
    if not slope and not intercept:
        return stored, False
    if len(slope) != 1 or len(intercept) != 1 or slope[0] == 0:
        raise malformed("its rescale slope and intercept are not one number each, the slope other than zero")
    return stored * slope[0] + intercept[0], (slope[0], intercept[0]) != (1.0, 0.0)


def voi_lut(header: Header, values: Values) -> Values | None:
    """Gray 0..1 by the first VOI LUT, None where there is none. Its output range is 0 .. 2^bits - 1 (PS3.3 C.11.2.1.1)."""
    tables = header.items(_VOI_LUT)
    if not tables:
        return None
    looked_up, bits = _looked_up(tables[0], values, signed=bool(values.min() < 0))
    return np.minimum(looked_up / float((1 << bits) - 1), 1.0)


def _looked_up(item: Header, values: Values, *, signed: bool) -> tuple[Values, int]:
    """`values` through a LUT, and its bits per entry. Values beyond its ends take the first and last entry (C.11.1.1, C.11.2.1.1)."""
    descriptor = item.shorts(_DESCRIPTOR, "a LUT descriptor", signed=signed)
    if len(descriptor) != 3:
        raise malformed("a LUT descriptor does not have three values")
    entries, first, bits = descriptor[0] & 0xFFFF or 0x10000, descriptor[1], descriptor[2]
    if not 8 <= bits <= 16:
        raise malformed("a LUT has other than 8 to 16 bits")
    table = _entries(item, entries, bits)
    index = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)
    return table[index].astype(np.float64), bits


def _entries(item: Header, entries: int, bits: int) -> NDArray[np.unsignedinteger]:
    """The entries of a LUT: 16-bit words, or bytes where 8-bit entries are packed (its length tells; padded to even)."""
    data = item.raw(_DATA)
    if _DATA not in item or item.vr(_DATA) not in ("US", "SS", "OW", "OB", "UN", ""):
        raise malformed("a LUT has no data")
    if len(data) == 2 * entries:
        return np.frombuffer(data, "<u2" if item.little else ">u2")
    if bits == 8 and len(data) == entries + entries % 2 and item.little:
        return np.frombuffer(data, np.uint8)[:entries]
    raise malformed("a LUT has another length than its descriptor says")


def _header_window(header: Header) -> Window | None:
    """The first window of the header, None where there is none."""
    centers, widths = header.decimals(_CENTER, "the window center"), header.decimals(_WIDTH, "the window width")
    if not centers and not widths:
        return None
    if len(centers) != len(widths):
        raise malformed("it has not as many window widths as window centers")
    functions = header.words(_FUNCTION) or ("LINEAR",)
    function = next((known for known in _FUNCTIONS if functions == (known,)), None)
    if function is None:
        raise malformed("its VOI LUT function is not known")
    center, width = centers[0], widths[0]
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise malformed("its window width is not positive")
    return Window(center, width, function)


def window(values: Values, applied: Window) -> Values:
    """Gray 0..1 (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    LINEAR: 0 for x <= c - 0.5 - (w-1)/2, 1 for x > c - 0.5 + (w-1)/2, else (x - (c-0.5)) / (w-1) + 0.5; w >= 1.
    LINEAR_EXACT: 0 for x <= c - w/2, 1 for x > c + w/2, else (x - c) / w + 0.5; w > 0.
    SIGMOID: 1 / (1 + exp(-4 (x - c) / w)); w > 0.
    """
    center, width = applied.center, applied.width
    if applied.function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0))))
    middle, span = (center - 0.5, width - 1.0) if applied.function == "LINEAR" else (center, width)
    ramp = (values - middle) / span + 0.5 if span else np.zeros(len(values))
    ramp = np.where(values <= middle - span / 2, 0.0, np.where(values > middle + span / 2, 1.0, ramp))
    return np.clip(ramp, 0.0, 1.0)


def percentile_window(values: Values, counts: NDArray[np.int64]) -> Window | None:
    """The window of a film whose header says nothing of display: from the value that 0.5 % of the pixels do not exceed to the one that
    99.5 % do not, from the smallest to the largest where these are the same; None (black) where all are.

    counts: pixels per entry of `values`, without padding.
    """
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    if not len(order):
        return None
    reached = np.cumsum(counts[order])
    low, high = (float(values[order[np.searchsorted(reached, share * reached[-1])]]) for share in (DARKEST, BRIGHTEST))
    if low == high:
        low, high = float(values[order[0]]), float(values[order[-1]])
    return None if low == high else Window((low + high) / 2, high - low, "LINEAR_EXACT")


def is_inverted(header: Header, photometric: str) -> bool:
    """Whether low values are bright: MONOCHROME1 or presentation LUT shape INVERSE, which say the same and count once.

    Raises:
        ImageError: `unsupported_pixel_format` for LIN OD, `malformed_dicom` for other shapes.
    """
    shape = header.word(_SHAPE) or "IDENTITY"
    if shape == "LIN OD":
        raise ImageError("unsupported_pixel_format", what="values in optical density")
    if shape not in ("IDENTITY", "INVERSE"):
        raise malformed("its presentation LUT shape is not known")
    return photometric == "MONOCHROME1" or shape == "INVERSE"
