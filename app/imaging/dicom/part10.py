"""A DICOM file's frame: preamble, prefix, file meta, transfer syntax, and the data set's bytes, inflated where they are deflated.

Source: PS3.10 section 7.1. The preamble is the application's own; zeros, a TIFF header and any other bytes are taken as long as they do
not begin like a program, a script, an archive, a document or another picture, because such a file is two files at once.
"""

from __future__ import annotations

import struct
import zlib

from app.errors import ImageError
from app.imaging.dicom.transfer_syntax import TransferSyntax, transfer_syntax
from app.imaging.dicom.walk import DataSet, is_padding, malformed, walk
from app.imaging.header import ImageLimits
from app.imaging.memory import working_memory

PREAMBLE_BYTES = 128
MAX_META_ELEMENTS = 64
_META_START = PREAMBLE_BYTES + 4
_INFLATE_INPUT, _INFLATE_OUTPUT = 1 << 16, 1 << 20
_MEDIA_STORAGE_CLASS, _SYNTAX, _GROUP_LENGTH = 0x00020002, 0x00020010, 0x00020000
_DIRECTORY = "1.2.840.10008.1.3.10"
_LONG_VRS = (b"OB", b"OW", b"UN", b"UT", b"SQ")

_PROGRAMS = (
    b"MZ", b"ZM", b"\x7fELF", b"#!", b"\xfe\xed\xfa", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\xbe\xba\xfe\xca",
    b"\x00asm", b"dex\n", b"!<arch>", b"L\x00\x00\x00\x01\x14\x02", b"\xd0\xcf\x11\xe0", b"%PDF", b"%!PS", b"{\\rtf", b"PK", b"Rar!",
    b"7z\xbc\xaf", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"MSCF", b"ITSF", b"<", b"@", b"REM ", b"rem ", b"\xef\xbb\xbf",
)  # fmt: skip
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")


def read_part10(data: memoryview, limits: ImageLimits) -> DataSet:
    """The walked data set of a DICOM file.

    Raises:
        ImageError: `payload_too_large` (the file, or what it inflates to), `executable_preamble`, `malformed_dicom`, `truncated_image`,
            `unsupported_transfer_syntax`, `dicom_without_image` (a directory).
    """
    if len(data) > limits.dicom_max_bytes:
        raise ImageError("payload_too_large", what="DICOM file", limit=limits.dicom_max_bytes)
    _check_preamble(data[:PREAMBLE_BYTES].tobytes())
    syntax, start = _read_meta(data)
    body = data[start:]
    if not syntax.deflated:
        return walk(body, syntax)
    with working_memory(min(limits.dicom_max_bytes, 1_032 * len(body))):  # deflate cannot do better than 1,032 to 1
        body = memoryview(_inflate(body, limits.dicom_max_bytes))
    return walk(body, syntax)


def _check_preamble(preamble: bytes) -> None:
    if preamble.startswith(_PROGRAMS):
        raise ImageError("executable_preamble")
    if preamble.startswith(_PICTURES):
        raise malformed("its preamble begins like another kind of picture")


def _read_meta(data: memoryview) -> tuple[TransferSyntax, int]:
    """The transfer syntax and where the data set begins. The meta is always explicit VR little endian."""
    at, last, stated = _META_START, 0, None
    values: dict[int, str] = {}
    for _ in range(MAX_META_ELEMENTS):
        if at + 2 > len(data):
            raise ImageError("truncated_image")
        if struct.unpack_from("<H", data, at) != (2,):
            break
        tag, start, end = _meta_element(data, at)
        if tag <= last:
            raise malformed("its file meta is not in ascending order")
        if tag == _GROUP_LENGTH:
            stated = end + _group_length(data, start, end)
        elif tag in (_MEDIA_STORAGE_CLASS, _SYNTAX):
            values[tag] = data[start : min(end, start + 66)].tobytes().rstrip(b"\x00 ").decode("ascii", "replace")
        at, last = end, tag
    else:
        raise malformed("its file meta has too many elements")
    if stated not in (None, at):
        raise malformed("the stated length of its file meta is wrong")
    if values.get(_MEDIA_STORAGE_CLASS) == _DIRECTORY:
        raise ImageError("dicom_without_image", what="a directory of files")
    if not values.get(_SYNTAX):
        raise malformed("its file meta names no transfer syntax")
    return transfer_syntax(values[_SYNTAX]), at


def _meta_element(data: memoryview, at: int) -> tuple[int, int, int]:
    """Tag and [start, end) of the value of one element of the file meta."""
    if at + 8 > len(data):
        raise ImageError("truncated_image")
    group, number, vr, length = struct.unpack_from("<HH2sH", data, at)
    if not (vr.isalpha() and vr.isupper()):
        raise malformed("its file meta is not in explicit VR little endian")
    start = at + 8
    if vr in _LONG_VRS:
        if at + 12 > len(data):
            raise ImageError("truncated_image")
        (length,) = struct.unpack_from("<L", data, at + 8)
        start = at + 12
    if start + length > len(data):
        raise ImageError("truncated_image")
    return group << 16 | number, start, start + length


def _group_length(data: memoryview, start: int, end: int) -> int:
    if end - start != 4:
        raise malformed("the stated length of its file meta is wrong")
    (length,) = struct.unpack_from("<L", data, start)
    return int(length)


def _inflate(body: memoryview, limit: int) -> bytearray:
    """The deflated data set (PS3.5 A.5, RFC 1951 without a wrapper), at most `limit` bytes of it.

    Zero bytes may follow, and, as some old writers append it, the trailer of a gzip file, if its checksum is right.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    end = 0
    try:
        while end < len(body) and not inflater.eof:
            rest: bytes | memoryview = body[end : end + _INFLATE_INPUT]
            end += len(rest)
            full = True
            while full and not inflater.eof:
                piece = inflater.decompress(rest, _INFLATE_OUTPUT)
                inflated += piece
                if len(inflated) > limit:
                    raise ImageError("payload_too_large", what="inflated data set", limit=limit)
                rest = inflater.unconsumed_tail
                full = len(piece) == _INFLATE_OUTPUT
    except zlib.error as error:
        raise malformed("its deflated data set is damaged") from error
    if not inflater.eof:
        raise ImageError("truncated_image")
    end -= len(inflater.unused_data)
    if body[end : end + 8] == struct.pack("<LL", zlib.crc32(inflated), len(inflated)):
        end += 8
    if not is_padding(body, end):
        raise ImageError("trailing_data", count=len(body) - end)
    return inflated
