"""The orientation of an EXIF block, and nothing else of it.

Sources: Exif 2.32 (CIPA DC-008) section 4.6 and TIFF 6.0 section 2 for the directory; tag 0x0112 for the orientation.
Only the first directory is read; no pointer in it is followed, so depth and loops cannot matter.
"""

from __future__ import annotations

import struct

from app.errors import ImageError

_ORIENTATION = 0x0112
_SUB_DIRECTORIES = (0x8769, 0x8825, 0xA005)
_SHORT, _LONG = 3, 4
_ENTRY_BYTES = 12


def orientation(block: bytes) -> int:
    """The orientation (1..8) of a TIFF block, the bytes after `Exif 00 00` of a JPEG or the content of a PNG's eXIf.

    1 where the block does not state one (no tag, or the value 0, "unknown").

    Raises:
        ImageError: `malformed_image`, because with a damaged block nobody can say which way up the film is.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        raise _damaged()
    magic, start = struct.unpack_from(order + "HI", block, 2)
    if magic != 42 or start < 8 or start + 2 > len(block):
        raise _damaged()
    (count,) = struct.unpack_from(order + "H", block, start)
    end = start + 2 + count * _ENTRY_BYTES
    if end > len(block):
        raise _damaged()
    found = 1
    for at in range(start + 2, end, _ENTRY_BYTES):
        tag, kind, number = struct.unpack_from(order + "HHI", block, at)
        if tag == _ORIENTATION:
            found = _orientation_value(block, at, order, kind, number)
        elif tag in _SUB_DIRECTORIES and kind == _LONG and struct.unpack_from(order + "I", block, at + 8)[0] == start:
            raise _damaged()
    if end + 4 <= len(block) and struct.unpack_from(order + "I", block, end)[0] == start:
        raise _damaged()
    return found


def _orientation_value(block: bytes, at: int, order: str, kind: int, number: int) -> int:
    value = struct.unpack_from(order + "H", block, at + 8)[0]
    if kind != _SHORT or number != 1 or value > 8:
        raise _damaged()
    return int(value) or 1


def _damaged() -> ImageError:
    return ImageError("malformed_image", what="its EXIF block is damaged")
