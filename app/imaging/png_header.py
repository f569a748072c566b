"""A PNG's chunks, walked from start to end before a decoder is opened.

Source: W3C PNG specification, third edition: 5.3 chunk layout, 5.6 ordering, 11.2 critical chunks, 11.3.1 tRNS, 11.3.3.4 eXIf.
The walk hands on only the pixel stream; palette and transparency are kept here as numbers, so that no decoder parses them.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from app.errors import ImageError
from app.imaging.exif import orientation
from app.imaging.header import ImageLimits, check_sides, check_trailer

MAX_CHUNKS = 20_000
"""A 10 MB file in pieces of 8 kB, as the usual encoder writes them, has about 1,200."""

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
_DEPTHS = {GRAY: {1, 2, 4, 8, 16}, RGB: {8, 16}, PALETTE: {1, 2, 4, 8}, GRAY_ALPHA: {8, 16}, RGBA: {8, 16}}
_SAMPLES = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_ANIMATION = {b"acTL", b"fcTL", b"fdAT"}


@dataclass(frozen=True)
class PngHeader:
    """What the walk found.

    palette: RGB triplets, 3 n bytes, for colour type 3. transparency: the content of tRNS, checked for its length.
    stream: (start, end) of each IDAT content, in order; together one zlib stream.
    """

    width: int
    height: int
    bit_depth: int
    color_type: int
    interlaced: bool
    palette: bytes
    transparency: bytes
    orientation: int
    stream: tuple[tuple[int, int], ...]


@dataclass
class _Walk:
    ihdr: tuple[int, int, int, int, int] | None = None
    palette: bytes | None = None
    transparency: bytes = b""
    orientation: int | None = None
    stream: list[tuple[int, int]] = field(default_factory=list)
    stream_ended: bool = False


def read_png_header(data: memoryview, limits: ImageLimits) -> PngHeader:
    """Walk every chunk of a PNG: lengths, checksums, order, and the tables of depths and colour types.

    Raises:
        ImageError: `malformed_image`, `truncated_image`, `trailing_data`, `animated_image`, `image_too_large`.
        RefusedError: `too_small`.
    """
    walk = _Walk()
    at = 8
    for _ in range(MAX_CHUNKS):
        kind, start, end = _chunk(data, at)
        at = end + 4
        if walk.ihdr is None and kind != b"IHDR":
            raise ImageError("malformed_image", what="it does not begin with IHDR")
        if kind == b"IEND":
            return _finish(walk, data, start, end)
        if kind == b"IDAT":
            _idat(walk, start, end)
            continue
        walk.stream_ended = bool(walk.stream)
        _take(walk, kind, bytes(data[start:end]), limits)
    raise ImageError("malformed_image", what="it has too many chunks")


def _chunk(data: memoryview, at: int) -> tuple[bytes, int, int]:
    """Kind, start and end of the content of the chunk at `at`; its checksum is right."""
    if at + 12 > len(data):
        raise ImageError("truncated_image")
    (length,) = struct.unpack_from(">I", data, at)
    kind = bytes(data[at + 4 : at + 8])
    if length > 0x7FFFFFFF or not kind.isalpha() or not kind.isascii():
        raise ImageError("malformed_image", what="a chunk has an impossible length or name")
    end = at + 8 + length
    if end + 4 > len(data):
        raise ImageError("truncated_image")
    if zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
        raise ImageError("malformed_image", what="a checksum is wrong")
    return kind, at + 8, end


def _idat(walk: _Walk, start: int, end: int) -> None:
    if walk.stream_ended:
        raise ImageError("malformed_image", what="its pixel stream is interrupted")
    walk.stream.append((start, end))


def _take(walk: _Walk, kind: bytes, body: bytes, limits: ImageLimits) -> None:
    if kind in _ANIMATION:
        raise ImageError("animated_image")
    if kind == b"IHDR":
        _ihdr(walk, body, limits)
    elif kind == b"PLTE":
        _plte(walk, body)
    elif kind == b"tRNS":
        _trns(walk, body)
    elif kind == b"eXIf":
        if walk.orientation is not None:
            raise ImageError("malformed_image", what="it has two EXIF blocks")
        walk.orientation = orientation(body)
    elif not kind[0] & 0x20:
        raise ImageError("malformed_image", what="it has a critical chunk that is not known")


def _ihdr(walk: _Walk, body: bytes, limits: ImageLimits) -> None:
    if walk.ihdr is not None or len(body) != 13:
        raise ImageError("malformed_image", what="its IHDR is doubled or has a wrong length")
    width, height, depth, color, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    if depth not in _DEPTHS.get(color, ()) or compression or filtering or interlace > 1:
        raise ImageError("malformed_image", what="its IHDR names an unknown kind of image")
    check_sides(width, height, limits)
    walk.ihdr = (width, height, depth, color, interlace)


def _plte(walk: _Walk, body: bytes) -> None:
    _, _, depth, color, _ = walk.ihdr or (0, 0, 0, 0, 0)
    most = 2**depth if color == PALETTE else 256
    if color in (GRAY, GRAY_ALPHA) or walk.palette is not None or walk.stream or walk.transparency:
        raise ImageError("malformed_image", what="its palette stands where it must not")
    if len(body) % 3 or not 1 <= len(body) // 3 <= most:
        raise ImageError("malformed_image", what="its palette has a wrong length")
    walk.palette = body


def _trns(walk: _Walk, body: bytes) -> None:
    color = walk.ihdr[3] if walk.ihdr else GRAY
    if color in (GRAY_ALPHA, RGBA) or walk.transparency or walk.stream or (color == PALETTE and not walk.palette):
        raise ImageError("malformed_image", what="its transparency stands where it must not")
    entries = len(walk.palette or b"") // 3
    if (color == PALETTE and not 1 <= len(body) <= entries) or (color != PALETTE and len(body) != (2, 0, 6)[color]):
        raise ImageError("malformed_image", what="its transparency has a wrong length")
    walk.transparency = body


def _finish(walk: _Walk, data: memoryview, start: int, end: int) -> PngHeader:
    if start != end:
        raise ImageError("malformed_image", what="its end chunk is not empty")
    if walk.ihdr is None or not walk.stream:
        raise ImageError("truncated_image")
    width, height, depth, color, interlace = walk.ihdr
    if color == PALETTE and walk.palette is None:
        raise ImageError("malformed_image", what="its palette is missing")
    check_trailer(data, end + 4)
    _check_stream(sum(b - a for a, b in walk.stream), _raw_bytes(*walk.ihdr))
    return PngHeader(
        width=width,
        height=height,
        bit_depth=depth,
        color_type=color,
        interlaced=bool(interlace),
        palette=walk.palette or b"" if color == PALETTE else b"",
        transparency=walk.transparency,
        orientation=walk.orientation or 1,
        stream=tuple(walk.stream),
    )


def _raw_bytes(width: int, height: int, depth: int, color: int, interlace: int) -> int:
    """Bytes of the inflated stream: each row has one filter byte and its samples (9.2); Adam7 has seven passes (8.2)."""
    bits = depth * _SAMPLES[color]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    total = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _check_stream(compressed: int, raw: int) -> None:
    """Deflate (RFC 1951) shrinks at most 1,032 times and, in any encoder's hands, grows by far less than an eighth."""
    if compressed * 1_032 < raw:
        raise ImageError("truncated_image")
    if compressed > raw + raw // 8 + 1_024:
        raise ImageError("malformed_image", what="its pixel stream is longer than its image")
