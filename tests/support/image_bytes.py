"""PNG and JPEG files put together byte by byte, so that every field of them can be set, right or wrong."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.errors import CxrError

Value = TypeVar("Value")

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def ihdr(width: int, height: int, depth: int = 8, color: int = 0, *tail: int) -> bytes:
    compression, filtering, interlace = tail or (0, 0, 0)
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, compression, filtering, interlace))


def raw_rows(samples: NDArray[np.integer], depth: int) -> bytes:
    """Filter byte 0 and the packed samples of each row; `samples` [H, W] or [H, W, C]."""
    rows = samples.reshape(samples.shape[0], -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(len(rows), -1)
    elif depth == 8:
        packed = rows.astype(np.uint8)
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[:, :, None], axis=2)[:, :, 8 - depth :]
        packed = np.packbits(bits.reshape(len(rows), -1), axis=1)
    return np.hstack([np.zeros((len(rows), 1), np.uint8), packed]).tobytes()


def png(
    samples: NDArray[np.integer],
    depth: int = 8,
    color: int = 0,
    *,
    interlaced: bool = False,
    before: Iterable[bytes] = (),
    stream: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    """A PNG of the given samples. before: chunks between IHDR and IDAT; stream: the IDAT content if not the right one."""
    if interlaced:
        parts = [samples[y::sy, x::sx] for x, y, sx, sy in ADAM7]
        raw = b"".join(raw_rows(p, depth) for p in parts if p.size)
    else:
        raw = raw_rows(samples, depth)
    head = ihdr(samples.shape[1], samples.shape[0], depth, color, 0, 0, int(interlaced))
    body = zlib.compress(raw, 6) if stream is None else stream
    return SIGNATURE + head + b"".join(before) + chunk(b"IDAT", body) + chunk(b"IEND") + after


def zeros(megabytes: int) -> bytes:
    """A zlib stream that inflates to that many megabytes of zeros."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()


def exif(orientation: int, order: str = "<", *, kind: int = 3, count: int = 1, following: int = 0) -> bytes:
    """A TIFF block with one directory of one entry."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    entry = struct.pack(order + "HHIHH", 0x0112, kind, count, orientation, 0)
    return head + struct.pack(order + "H", 1) + entry + struct.pack(order + "I", following)


def segment(marker: int, body: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segment(jpeg: bytes, *segments: bytes) -> bytes:
    """The JPEG with segments right after its start marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def exif_segment(block: bytes) -> bytes:
    return segment(0xE1, b"Exif\x00\x00" + block)


def frame(marker: int, width: int, height: int, *, bits: int = 8, components: int = 1) -> bytes:
    body = struct.pack(">BHHB", bits, height, width, components)
    return segment(marker, body + b"".join(bytes([i + 1, 0x11, 0]) for i in range(components)))


def scan(first: int = 0, last: int = 63, low: int = 0, *, component: int = 1, data: bytes = b"\x00") -> bytes:
    return segment(0xDA, bytes([1, component, 0, first, last, low])) + data


def bare_jpeg(*parts: bytes) -> bytes:
    """Start, one quantisation table, two trivial Huffman tables, the given parts, end."""
    quantisation = segment(0xDB, b"\x00" + bytes([8] * 64))
    dc = segment(0xC4, bytes([0x00, 1] + [0] * 15 + [0]))  # '0': difference 0
    ac = segment(
        0xC4, bytes([0x10, 1, 1] + [0] * 14 + [0xE0, 0x00])
    )  # '0': a run of empty blocks, '10': one empty block
    return b"\xff\xd8" + quantisation + dc + ac + b"".join(parts) + b"\xff\xd9"


def gray_progressive(width: int, height: int, scans: int) -> bytes:
    """A progressive film of one gray level: a first scan, then scans that send no coefficient at all."""
    blocks = -(-width // 8) * -(-height // 8)
    first = scan(0, 0, data=_bits("0" * blocks))
    runs, left = "", blocks
    while left >= 2**14:
        run = min(left, 2**15 - 1)
        runs += "0" + format(run - 2**14, "014b")
        left -= run
    runs += "10" * left
    rest = [scan(1 + i % 63, 1 + i % 63, data=_bits(runs)) for i in range(scans - 1)]
    return bare_jpeg(frame(0xC2, width, height), first, *rest)


def _bits(text: str) -> bytes:
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")


def value_or_refusal(call: Callable[[], Value]) -> Value | CxrError:
    """What the call returns, or its coded 4xx; any other exception passes through and fails the test."""
    try:
        return call()
    except CxrError as error:
        if not 400 <= error.status < 500:
            raise
        return error
