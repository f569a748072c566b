"""A JPEG's markers, walked from start to end before a decoder is opened.

Source: ITU-T T.81 (ISO/IEC 10918-1) Annex B for markers and segments, Annex G for progressive scans; CIPA DC-007 for the
multi-picture format. Taken: baseline, extended and progressive Huffman coding with 8 bits and 1 or 3 components.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from app.errors import ImageError
from app.imaging.exif import orientation
from app.imaging.header import ImageLimits, check_sides, check_trailer

MAX_SCANS = 100
"""An ordinary progressive film has about 10 scans; each further scan costs a pass over every coefficient."""
MAX_SEGMENTS = 4_000
"""A large colour profile needs 255 segments, an extended XMP packet a few hundred."""

_SOI, _EOI, _SOS, _DNL, _DHP, _EXP, _APP1, _APP2 = 0xD8, 0xD9, 0xDA, 0xDC, 0xDE, 0xDF, 0xE1, 0xE2
_STANDALONE = {0x00, 0x01, _SOI, *range(0xD0, 0xD8)}
_FRAMES_TAKEN = {0xC0, 0xC1, 0xC2}
_PROGRESSIVE = 0xC2
_FRAMES_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_FRAMES_ARITHMETIC = {0xC9, 0xCA, 0xCD, 0xCE, 0xCC}
_FRAMES_HIERARCHICAL = {0xC5, 0xC6, _DHP, _EXP}
_COMPLETE = (0,) * 64
_NOT_SENT = 255

# In entropy-coded data a marker is FF followed by anything but 00 (a stuffed FF), D0..D7 (restart) or FF (fill).
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


@dataclass(frozen=True)
class JpegHeader:
    """What the walk found. components: 1 or 3; orientation: EXIF 1..8; scans: number of SOS segments."""

    width: int
    height: int
    components: int
    progressive: bool
    orientation: int
    scans: int


@dataclass
class _Walk:
    """What has been seen so far. precision: per component, the lowest bit sent of each of its 64 coefficients."""

    frame: tuple[int, int] | None = None
    progressive: bool = False
    precision: dict[int, list[int]] = field(default_factory=dict)
    orientation: int | None = None
    scans: int = 0


def read_jpeg_header(data: memoryview, limits: ImageLimits) -> JpegHeader:
    """Walk every marker of a JPEG.

    Raises:
        ImageError: `malformed_image`, `truncated_image`, `trailing_data`, `animated_image` (several pictures),
            `unsupported_format` (coding, bit depth), `unsupported_color` (number of components), `image_too_large`.
        RefusedError: `too_small`.
    """
    walk = _Walk()
    at, segments = 2, 0
    while True:
        marker, at = _marker(data, at)
        if marker == _EOI:
            break
        if marker in _STANDALONE:
            raise ImageError("malformed_image", what="a marker stands where it must not")
        segments += 1
        if segments > MAX_SEGMENTS:
            raise ImageError("malformed_image", what="it has too many segments")
        end = at + _length(data, at)
        if end > len(data):
            raise ImageError("truncated_image")
        _segment(walk, marker, data[at + 2 : end], limits)
        at = end
        if marker == _SOS:
            found = _NEXT_MARKER.search(data, at)
            if found is None:
                raise ImageError("truncated_image")
            at = found.start()
    return _finish(walk, data, at)


def _marker(data: memoryview, at: int) -> tuple[int, int]:
    """The marker at `at` (fill bytes before it are allowed) and the position after it."""
    if at + 2 > len(data):
        raise ImageError("truncated_image")
    if data[at] != 0xFF:
        raise ImageError("malformed_image", what="a marker is missing")
    at += 1
    while at < len(data) and data[at] == 0xFF:
        at += 1
    if at == len(data):
        raise ImageError("truncated_image")
    return data[at], at + 1


def _length(data: memoryview, at: int) -> int:
    if at + 2 > len(data):
        raise ImageError("truncated_image")
    length = data[at] << 8 | data[at + 1]
    if length < 2:
        raise ImageError("malformed_image", what="a segment has an impossible length")
    return length


def _segment(walk: _Walk, marker: int, body: memoryview, limits: ImageLimits) -> None:
    if marker in _FRAMES_TAKEN:
        _frame(walk, marker, body, limits)
    elif marker == _SOS:
        _scan(walk, body)
    elif marker in _FRAMES_LOSSLESS:
        raise ImageError("unsupported_format", what="it is a lossless JPEG")
    elif marker in _FRAMES_ARITHMETIC:
        raise ImageError("unsupported_format", what="it is an arithmetic-coded JPEG")
    elif marker in _FRAMES_HIERARCHICAL:
        raise ImageError("unsupported_format", what="it is a hierarchical JPEG")
    elif marker == _DNL or 0x02 <= marker <= 0xBF:
        raise ImageError("malformed_image", what="a marker stands where it must not")
    elif marker == _APP1 and bytes(body[:6]) == b"Exif\x00\x00":
        stated = orientation(bytes(body[6:]))
        if walk.orientation not in (None, stated):
            raise ImageError("malformed_image", what="two EXIF blocks contradict each other")
        walk.orientation = stated
    elif marker == _APP2 and bytes(body[:4]) == b"MPF\x00":
        raise ImageError("animated_image")


def _frame(walk: _Walk, marker: int, body: memoryview, limits: ImageLimits) -> None:
    if walk.frame is not None:
        raise ImageError("malformed_image", what="it has two frame headers")
    if len(body) < 6:
        raise ImageError("malformed_image", what="its frame header is too short")
    bits, components = body[0], body[5]
    height, width = body[1] << 8 | body[2], body[3] << 8 | body[4]
    if bits != 8:
        raise ImageError("unsupported_format", what="it is a JPEG with other than 8 bits")
    if components == 4:
        raise ImageError("unsupported_color", what="CMYK or YCCK")
    if components not in (1, 3):
        raise ImageError("unsupported_color", what=f"of {components} components")
    if len(body) != 6 + 3 * components:
        raise ImageError("malformed_image", what="its frame header has a wrong length")
    check_sides(width, height, limits)
    identifiers = [body[6 + 3 * i] for i in range(components)]
    if len(set(identifiers)) != components:
        raise ImageError("malformed_image", what="two components share a name")
    walk.frame = (width, height)
    walk.progressive = marker == _PROGRESSIVE
    walk.precision = {i: [_NOT_SENT] * 64 for i in identifiers}


def _scan(walk: _Walk, body: memoryview) -> None:
    if walk.frame is None:
        raise ImageError("malformed_image", what="a scan comes before the frame header")
    walk.scans += 1
    if walk.scans > MAX_SCANS:
        raise ImageError("malformed_image", what="it has too many scans")
    count = body[0] if len(body) else 0
    if not 1 <= count <= len(walk.precision) or len(body) != 4 + 2 * count:
        raise ImageError("malformed_image", what="a scan header has a wrong length")
    first, last, low = body[-3], body[-2], body[-1] & 0x0F
    if not walk.progressive:
        first, last, low = 0, 63, 0
    if first > last or last > 63:
        raise ImageError("malformed_image", what="a scan names impossible coefficients")
    for i in range(count):
        bits = walk.precision.get(body[1 + 2 * i])
        if bits is None:
            raise ImageError("malformed_image", what="a scan names an unknown component")
        bits[first : last + 1] = [low] * (last + 1 - first)


def _finish(walk: _Walk, data: memoryview, end: int) -> JpegHeader:
    """A decoder paints what was never sent in gray and does not say so; therefore a missing scan counts as truncation."""
    if walk.frame is None:
        raise ImageError("malformed_image", what="it has no frame header")
    bits = list(walk.precision.values())
    if tuple(bits[0]) != _COMPLETE or any(b[0] != 0 for b in bits):
        raise ImageError("truncated_image")
    check_trailer(data, end)
    return JpegHeader(
        width=walk.frame[0],
        height=walk.frame[1],
        components=len(bits),
        progressive=walk.progressive,
        orientation=walk.orientation or 1,
        scans=walk.scans,
    )
