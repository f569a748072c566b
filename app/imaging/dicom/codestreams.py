"""What a compressed frame says about itself, compared with the DICOM header before any codec sees a byte.

The walks use Python integers only; every loop in them is bounded. A codestream whose sides, components or bits differ from the
header's is refused: decoders allocate by the codestream, the service by the header, and most holes of this year's decoders were in
believing one of the two.

Bits: PS3.5 section 8.2 wants the precision of the codestream to equal Bits Stored, but lossless JPEG and JPEG-LS encoders often state
the container (16 for 12 stored bits), and some JPEG 2000 encoders fewer bits than the header. The values are then the same, so any
precision that fits Bits Allocated is taken, and the samples are read as the header says (sign by Pixel Representation, even where a
JPEG 2000 codestream has another sign: the bits of a sample are the same).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from app.errors import ImageError
from app.imaging.dicom import decoder_protocol as syntax
from app.imaging.dicom.frame import FrameRequest

_MAX_SEGMENTS = 1_000
_MAX_TILES = 65_535  # ITU-T T.800 A.4.2: a tile's index has 16 bits

_SOF0, _SOF1, _SOF3, _SOF55 = 0xC0, 0xC1, 0xC3, 0xF7
_FRAMES: dict[str, tuple[int, ...]] = {
    syntax.JPEG_BASELINE: (_SOF0,),
    syntax.JPEG_EXTENDED: (_SOF0, _SOF1),  # PS3.5 A.4.1: processes 2 and 4; every decoder of them takes process 1
    syntax.JPEG_LOSSLESS: (_SOF3,),
    syntax.JPEG_LOSSLESS_SV1: (_SOF3,),
    syntax.JPEG_LS_LOSSLESS: (_SOF55,),
    syntax.JPEG_LS_NEAR_LOSSLESS: (_SOF55,),
}
_PRECISIONS: dict[str, range | tuple[int, ...]] = {syntax.JPEG_BASELINE: (8,), syntax.JPEG_EXTENDED: (8, 12)}
_ALL_PRECISIONS = range(2, 17)
_JPEG_2000 = (
    syntax.JPEG_2000_LOSSLESS,
    syntax.JPEG_2000,
    syntax.HTJ2K_LOSSLESS,
    syntax.HTJ2K_LOSSLESS_RPCL,
    syntax.HTJ2K,
)


@dataclass(frozen=True)
class Codestream:
    """Sides in px, number of components, bits of a sample."""

    columns: int
    rows: int
    components: int
    precision: int


def check_codestream(request: FrameRequest) -> Codestream:
    """Read the codestream's own header and compare it with the DICOM header.

    Raises:
        ImageError: `unsupported_transfer_syntax`; `unsupported_pixel_format` for bits, components or a colour model that are not
            taken; `undecodable_image` for a damaged codestream or one of another picture than the header describes.
    """
    _check_request(request)
    data = request.codestream
    if request.transfer_syntax in _JPEG_2000:
        stream = _jpeg_2000(data)
    elif request.transfer_syntax == syntax.RLE_LOSSLESS:
        stream = _rle(data, request)
    else:
        stream = _jpeg(data, request.transfer_syntax)
    if (stream.rows, stream.columns) != (request.rows, request.columns):
        raise _bad(
            f"its own size is {stream.columns} x {stream.rows} px, the header says {request.columns} x {request.rows}"
        )
    if stream.components != request.samples:
        raise _bad(f"it has {stream.components} components, the header says {request.samples}")
    if stream.precision > request.bits_allocated:
        raise _bad(f"it has {stream.precision} bits a sample, the header has room for {request.bits_allocated}")
    return stream


def _check_request(request: FrameRequest) -> None:
    if request.transfer_syntax not in syntax.SYNTAXES:
        raise ImageError("unsupported_transfer_syntax", what="a syntax without a decoder here")
    if request.samples not in (1, 3) or request.bits_allocated not in (8, 16):
        what = f"{request.samples} samples of {request.bits_allocated} bits a pixel"
        raise ImageError("unsupported_pixel_format", what=what)
    if request.samples == 3 and request.bits_allocated != 8:
        raise ImageError("unsupported_pixel_format", what="colour of more than 8 bits")
    if not 1 <= request.bits_stored <= request.bits_allocated:
        raise ImageError("unsupported_pixel_format", what=f"{request.bits_stored} bits stored")
    if request.samples == 3 and request.signed:
        raise ImageError("unsupported_pixel_format", what="signed colour samples")
    colour = request.photometric in syntax.PHOTOMETRICS[2:]
    if request.photometric not in syntax.PHOTOMETRICS or colour != (request.samples == 3):
        raise ImageError("unsupported_pixel_format", what="a photometric interpretation that does not fit its samples")
    if not (1 <= request.rows <= 65_535 and 1 <= request.columns <= 65_535):
        raise _bad("a side of the header is not 1 to 65535")


def _bad(what: str) -> ImageError:
    return ImageError("undecodable_image", what=what)


# ---- JPEG (ITU-T T.81) and JPEG-LS (T.87): the same segments


def _jpeg(data: bytes, transfer_syntax: str) -> Codestream:
    frame: Codestream | None = None
    for marker, start, end in _segments(data):
        if marker in _FRAMES[transfer_syntax]:
            if frame is not None:
                raise _bad("it has two frame headers")
            frame = _frame_header(data[start:end], transfer_syntax)
        elif marker == 0xDA:
            if frame is None:
                break
            if transfer_syntax == syntax.JPEG_LOSSLESS_SV1 and data[end - 3] != 1:
                raise _bad("its predictor is not the first-order one of the transfer syntax")  # PS3.5 A.4.1
            if data.rfind(b"\xff\xd9", end) < 0:
                raise _bad("it ends before its end-of-image marker")
            return frame
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # all SOFn but DHT, JPG, DAC
            raise _bad("its coding process is not the one of the transfer syntax")
    raise _bad("it has no frame header before its first scan")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, first byte, end) of the parameters of each marker segment up to the first scan's (T.81 B.1.1)."""
    if data[:2] != b"\xff\xd8":
        raise _bad("it does not begin with a start-of-image marker")
    at = 2
    for _ in range(_MAX_SEGMENTS):
        while at + 1 < len(data) and data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes, T.81 B.1.1.2
            at += 1
        if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] in (0x00, 0x01, *range(0xD0, 0xDA)):
            raise _bad("a marker segment is missing before its first scan")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(data):
            raise _bad("a marker segment is longer than the codestream")
        yield marker, at + 4, at + 2 + length
        if marker == 0xDA:
            return
        at += 2 + length
    raise _bad(f"it has more than {_MAX_SEGMENTS} marker segments")


def _frame_header(segment: bytes, transfer_syntax: str) -> Codestream:
    """T.81 B.2.2: P, Y, X, Nf, then three bytes a component."""
    if len(segment) < 6 or len(segment) != 6 + 3 * segment[5]:
        raise _bad("its frame header has another length than its components need")
    precision = segment[0]
    if precision not in _PRECISIONS.get(transfer_syntax, _ALL_PRECISIONS):
        raise _bad(f"{precision} bits a sample are not of its transfer syntax")
    for component in range(segment[5]):
        sampling = segment[7 + 3 * component]
        if not (1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4):
            raise _bad("a component's sampling factor is not 1 to 4")
    return Codestream(
        rows=int.from_bytes(segment[1:3], "big"),
        columns=int.from_bytes(segment[3:5], "big"),
        components=segment[5],
        precision=precision,
    )


# ---- JPEG 2000 (ITU-T T.800) and HTJ2K (T.814): the same SIZ


def _jpeg_2000(data: bytes) -> Codestream:
    """T.800 A.5.1; SIZ follows SOC at once. PS3.5 A.4.4 allows the bare codestream only, without the JP2 boxes."""
    if len(data) < 44 or data[:4] != b"\xff\x4f\xff\x51":
        raise _bad("it does not begin with SOC and SIZ markers")
    length, components = int.from_bytes(data[4:6], "big"), int.from_bytes(data[40:42], "big")
    if length != 38 + 3 * components or 4 + length > len(data):
        raise _bad("its SIZ segment has another length than its components need")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = (
        int.from_bytes(data[at : at + 4], "big") for at in range(8, 40, 4)
    )
    if not (left < right and top < bottom and tile_width and tile_height):
        raise _bad("its SIZ segment describes no area")
    if not (tile_left <= left < tile_left + tile_width and tile_top <= top < tile_top + tile_height):
        raise _bad("its first tile does not hold its first pixel")  # T.800 B.3
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    if tiles > _MAX_TILES:
        raise _bad(f"it has {tiles} tiles")
    depths = {data[42 + 3 * c] for c in range(components)}
    if len(depths) != 1 or any(data[43 + 3 * c : 45 + 3 * c] != b"\x01\x01" for c in range(components)):
        raise _bad("its components differ in bits, sign or size")
    return Codestream(
        rows=bottom - top, columns=right - left, components=components, precision=(depths.pop() & 0x7F) + 1
    )


# ---- RLE (PS3.5 Annex G)


def _rle(data: bytes, request: FrameRequest) -> Codestream:
    """G.5: sixteen 32-bit numbers, little endian: how many segments, then where each begins. One segment a byte of a sample.

    The header has no sides and no precision: they are the DICOM header's. A run gives at most 128 bytes for 2, so that a frame
    that is too short for its pixels is known before it is decoded.
    """
    segments = request.samples * (request.bits_allocated // 8)
    if len(data) < 64:
        raise _bad("it is shorter than the RLE header")
    count, *offsets = (int.from_bytes(data[at : at + 4], "little") for at in range(0, 64, 4))
    if count != segments:
        raise _bad(f"it has {count} RLE segments, the header needs {segments}")
    bounds = [*offsets[:segments], len(data)]
    if bounds[0] != 64 or any(a >= b for a, b in itertools.pairwise(bounds)):
        raise _bad("its RLE segments do not follow each other")
    pixels = request.rows * request.columns
    if any((b - a) * 64 < pixels for a, b in itertools.pairwise(bounds)):
        raise _bad("an RLE segment is too short for its pixels")
    return Codestream(request.columns, request.rows, request.samples, request.bits_allocated)
