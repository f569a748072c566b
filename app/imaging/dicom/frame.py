"""What a decoder of compressed pixel data is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class FrameRequest:
    """One compressed frame. Every number was checked in Python integers before (PS3.5 section 8).

    codestream: the frame's fragments joined (RLE: the one fragment with its header). rows, columns: 1..65535. samples: 1 or 3.
    bits_allocated: 8 or 16; high_bit = bits_stored - 1. signed: two's complement. photometric: as declared.
    """

    transfer_syntax: str
    codestream: bytes
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    planar: int = 0


class FrameDecoder(Protocol):
    """Decodes where a crash costs nothing but the frame."""

    def decode(self, request: FrameRequest) -> NDArray[Any]:
        """Stored values, [rows, columns] of uint8, int8, uint16 or int16 by `bits_allocated` and `signed`; three samples as
        uint8 [rows, columns, 3] in RGB.

        Raises:
            ImageError: `undecodable_image` (damaged, a decoder that died, took too long or wanted too much memory; other
                dimensions than declared), `unsupported_transfer_syntax`, `unsupported_pixel_format`.
        """
        ...
