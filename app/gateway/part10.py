"""The frame around a data set: the DICOM File Format (PS3.10 chapter 7) written for what comes by C-STORE, and its first words read.

C-STORE carries the bare data set; a file is that data set behind a preamble and a meta header. The data set's bytes are not
touched, so that its hash says whether two senders sent the same film.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from app.errors import ImageError

IMPLEMENTATION_CLASS_UID = "2.25.30240004446550705371030203211407758963"
IMPLEMENTATION_VERSION = "CXRTRIAGE_1"

_PREAMBLE = bytes(128) + b"DICM"
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5 section 9.1; leading zeros are wrong there, but senders have them
_META_MAX_BYTES = 65_536  # a meta header is some 200 bytes; private information may make it longer
_LONG_LENGTHS = frozenset({b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN"})  # of those that may stand in a meta header


@dataclass(frozen=True)
class Meta:
    """The file meta information of one file; identifiers in memory only, hence no repr."""

    sop_class_uid: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    transfer_syntax_uid: str


def is_uid(text: str) -> bool:
    """Whether this can be a UID: 1 to 64 characters, numbers with dots between."""
    return 0 < len(text) <= 64 and _UID.fullmatch(text) is not None


def as_file(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data_set: bytes) -> bytes:
    """A Part 10 file around a data set as it came.

    Raises:
        ImageError: malformed_dicom; one of the UIDs is none.
    """
    if not all(map(is_uid, (sop_class_uid, sop_instance_uid, transfer_syntax_uid))):
        raise ImageError("malformed_dicom", what="a UID of the message is not well formed")
    elements = b"".join(
        (
            _element(0x0001, b"OB", b"\x00\x01"),
            _element(0x0002, b"UI", sop_class_uid.encode("ascii")),
            _element(0x0003, b"UI", sop_instance_uid.encode("ascii")),
            _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii")),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION.encode("ascii")),
        )
    )
    return b"".join((_PREAMBLE, _element(0x0000, b"UL", struct.pack("<I", len(elements))), elements, data_set))


def read_meta(data: bytes) -> Meta:
    """The meta header's UIDs. Looks at the first 64 kB only and at nothing behind group 0002.

    Raises:
        ImageError: malformed_dicom; no Part 10 file, or a meta header without its three UIDs.
    """
    if data[128:132] != b"DICM":
        raise ImageError("malformed_dicom", what="the letters DICM are not where they belong")
    found: dict[int, str] = {}
    place, end = 132, min(len(data), _META_MAX_BYTES)
    while place + 8 <= end:
        group, element = struct.unpack_from("<HH", data, place)
        if group != 0x0002:
            break
        vr = data[place + 4 : place + 6]
        if vr in _LONG_LENGTHS:
            if place + 12 > end:
                break
            length, head = struct.unpack_from("<I", data, place + 8)[0], 12
        else:
            length, head = struct.unpack_from("<H", data, place + 6)[0], 8
        if place + head + length > end:
            break
        if vr == b"UI" and length <= 64:
            found[element] = data[place + head : place + head + length].rstrip(b"\x00 ").decode("ascii", "replace")
        place += head + length
    uids = [found.get(element, "") for element in (0x0002, 0x0003, 0x0010)]
    if not all(map(is_uid, uids)):
        raise ImageError("malformed_dicom", what="the meta header lacks a UID")
    return Meta(*uids)


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    """One element of group 0002 in explicit VR little endian, padded to an even length (PS3.5 section 7.1.2)."""
    if len(value) % 2:
        value += b" " if vr == b"SH" else b"\x00"
    if vr in _LONG_LENGTHS:
        return struct.pack("<HH2sHI", 0x0002, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
