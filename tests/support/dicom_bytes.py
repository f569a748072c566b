"""DICOM files byte by byte, with no library in between, so that every length, VR and tag can be made to lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np

LITTLE, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED, RLE, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50"
CR = "1.2.840.10008.5.1.4.1.1.1"
UNDEFINED = 0xFFFFFFFF
_LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")

Elements = Mapping[int, tuple[str, bytes]]


def element(tag: int, vr: str, value: bytes, *, length: int | None = None, syntax: str = LITTLE) -> bytes:
    """One element; `length` is what is stated where it shall differ from the value's."""
    order = ">" if syntax == BIG else "<"
    length = len(value) if length is None else length
    start = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return start + struct.pack("<L", length) + value
    if vr in _LONG:
        return start + vr.encode() + bytes(2) + struct.pack(order + "L", length) + value
    return start + vr.encode() + struct.pack(order + "H", length) + value


def item(content: bytes, *, length: int | None = None, syntax: str = LITTLE) -> bytes:
    order = ">" if syntax == BIG else "<"
    return struct.pack(order + "HHL", 0xFFFE, 0xE000, len(content) if length is None else length) + content


def delimiter(number: int, syntax: str = LITTLE) -> bytes:
    """0xE00D ends an item, 0xE0DD a sequence."""
    return struct.pack((">" if syntax == BIG else "<") + "HHL", 0xFFFE, number, 0)


def meta(syntax: str | None = LITTLE, *, sop_class: str = CR, length_error: int = 0) -> bytes:
    """Preamble, prefix and file meta. `length_error` is added to the stated group length."""
    content = element(0x00020001, "OB", b"\0\1") + element(0x00020002, "UI", even(sop_class))
    content += element(0x00020003, "UI", even("1.2.3.4"))
    if syntax is not None:
        content += element(0x00020010, "UI", even(syntax))
    group_length = element(0x00020000, "UL", struct.pack("<L", len(content) + length_error))
    return bytes(128) + b"DICM" + group_length + content


def even(text: str, pad: str = "\0") -> bytes:
    return (text + pad * (len(text) % 2)).encode()


def us(*values: int, syntax: str = LITTLE) -> bytes:
    return b"".join(struct.pack((">" if syntax == BIG else "<") + "H", value) for value in values)


def film_elements(side: int = 128, *, syntax: str = LITTLE, bits: int = 16) -> dict[int, tuple[str, bytes]]:
    """The least a gray film needs: `side` x `side` px, 12 bits in words of 16, or 8 bits; a ramp without any VOI."""
    stored = 12 if bits == 16 else 8
    ramp = np.arange(side * side) % (1 << stored)
    kind = (">" if syntax == BIG else "<") + ("u2" if bits == 16 else "u1")
    return {
        0x00080016: ("UI", even(CR)),
        0x00080018: ("UI", even("1.2.3.4")),
        0x00080060: ("CS", b"CR"),
        0x00280002: ("US", us(1, syntax=syntax)),
        0x00280004: ("CS", b"MONOCHROME2 "),
        0x00280010: ("US", us(side, syntax=syntax)),
        0x00280011: ("US", us(side, syntax=syntax)),
        0x00280100: ("US", us(bits, syntax=syntax)),
        0x00280101: ("US", us(stored, syntax=syntax)),
        0x00280102: ("US", us(stored - 1, syntax=syntax)),
        0x00280103: ("US", us(0, syntax=syntax)),
        0x7FE00010: ("OW" if bits == 16 else "OB", ramp.astype(kind).tobytes()),
    }


def body(elements: Elements, syntax: str = LITTLE) -> bytes:
    """The elements in order of their tags."""
    return b"".join(element(tag, *elements[tag], syntax=syntax) for tag in sorted(elements))


Changes = Mapping[str, tuple[str, bytes] | None]
"""By hexadecimal tag, `t00280010`: (VR, value), or None to remove."""


def film(
    syntax: str = LITTLE,
    changes: Changes | None = None,
    *,
    side: int = 128,
    bits: int = 16,
    **more: tuple[str, bytes] | None,
) -> bytes:
    """A minimal film, with `changes` and `more` changes."""
    elements = film_elements(side, syntax=syntax, bits=bits)
    for name, change in {**(changes or {}), **more}.items():
        tag = int(name[1:], 16)
        if change is None:
            elements.pop(tag, None)
        else:
            elements[tag] = change
    return with_body(body(elements, syntax), syntax)


def with_body(content: bytes, syntax: str = LITTLE) -> bytes:
    """A file around an encoded data set; deflated where the syntax says so."""
    return meta(syntax) + (deflate(content) if syntax == DEFLATED else content)


def deflate(content: bytes, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def encapsulated(*fragments: bytes, table: bytes = b"", end: bool = True) -> bytes:
    """The element of compressed pixel data: table of frames, fragments, delimiter."""
    items = item(table) + b"".join(item(fragment) for fragment in fragments)
    return element(0x7FE00010, "OB", items, length=UNDEFINED) + (delimiter(0xE0DD) if end else b"")


def compressed_film(*fragments: bytes, syntax: str = JPEG, table: bytes = b"", bits: int = 8) -> bytes:
    """A film whose pixel data are these fragments."""
    elements = film_elements(bits=bits)
    del elements[0x7FE00010]
    return meta(syntax) + body(elements) + encapsulated(*fragments, table=table)


def nested(depth: int, *, undefined: bool = False, tag: int = 0x00081140) -> bytes:
    """Sequences within sequences, the innermost empty."""
    content = b""
    for _ in range(depth):
        if undefined:
            inner = item(content, length=UNDEFINED) + delimiter(0xE00D)
            content = element(tag, "SQ", inner, length=UNDEFINED) + delimiter(0xE0DD)
        else:
            content = element(tag, "SQ", item(content))
    return content
