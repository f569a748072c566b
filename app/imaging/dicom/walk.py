"""A DICOM data set's elements, found by a bounded walk in Python integers; no value is interpreted and no pixel touched here.

Source: PS3.5 section 7 (elements, VRs, sequences), Annex A.4 (encapsulated pixel data). Bounds: `MAX_ELEMENTS`, `MAX_DEPTH`, no length
beyond its parent or the file, tags ascending and unique (section 7.1), undefined lengths only for SQ, UN and encapsulated pixel data.
Odd value lengths are taken, since old archives write them. Inside sequences that nobody here reads only the structure is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.errors import ImageError
from app.imaging.dicom.transfer_syntax import TransferSyntax

MAX_ELEMENTS = 20_000
"""Elements, items and fragments together; a film has some 150, a CR with vendor sequences some 2,000."""
MAX_DEPTH = 8
"""Sequences within sequences; images use 4."""

PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_SHORT_VRS = frozenset((
    "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US",
))  # fmt: skip
_VRS = {vr.encode(): vr for vr in _LONG_VRS | _SHORT_VRS}

READ_SEQUENCES = frozenset((0x00082218, 0x00283000, 0x00283010, 0x00540220))
"""Anatomic region, modality LUT, VOI LUT, view code: the sequences whose items are kept."""


@dataclass(frozen=True, slots=True)
class Element:
    """Where a value lies: bytes [start, end) of the data set. vr is empty in implicit VR; items only for `READ_SEQUENCES`."""

    tag: int
    vr: str
    start: int
    end: int
    items: tuple[Mapping[int, Element], ...] = ()


Elements = Mapping[int, Element]


@dataclass(frozen=True)
class DataSet:
    """A walked data set. data: its bytes (inflated where the syntax deflates); fragments: of encapsulated pixel data, [start, end)."""

    data: memoryview
    syntax: TransferSyntax
    elements: Elements
    fragments: tuple[tuple[int, int], ...] = ()


def malformed(what: str) -> ImageError:
    return ImageError("malformed_dicom", what=what)


def walk(data: memoryview, syntax: TransferSyntax) -> DataSet:
    """Walk a whole data set, what follows its pixel data included. Zero bytes after the last element are padding.

    Raises:
        ImageError: `malformed_dicom`; `truncated_image` where something reaches beyond the end of the file.
    """
    state = _Walk(data, "<" if syntax.little else ">", syntax)
    elements, _ = _elements(state, 0, len(data), 0, explicit=syntax.explicit, delimited=False, keep=True)
    return DataSet(data, syntax, elements, tuple(state.fragments))


@dataclass
class _Walk:
    data: memoryview
    order: str
    syntax: TransferSyntax
    count: int = 0
    fragments: list[tuple[int, int]] = field(default_factory=list)

    def one_more(self) -> None:
        self.count += 1
        if self.count > MAX_ELEMENTS:
            raise malformed("it has too many elements")

    def unpack(self, layout: str, at: int, size: int, end: int) -> tuple[int, ...]:
        self.need(at, size, end)
        return struct.unpack_from(self.order + layout, self.data, at)

    def need(self, at: int, size: int, end: int) -> None:
        if at + size > len(self.data):
            raise ImageError("truncated_image")
        if at + size > end:
            raise malformed("a length reaches beyond the sequence it stands in")


def _elements(
    state: _Walk, at: int, end: int, depth: int, *, explicit: bool, delimited: bool, keep: bool
) -> tuple[dict[int, Element], int]:
    """The elements from `at` to `end`, or to the delimiter of an item of undefined length; and the position after them."""
    found: dict[int, Element] = {}
    last = 0
    while at < end:
        group, number = state.unpack("HH", at, 4, end)
        tag = group << 16 | number
        if tag == 0 and depth == 0 and PIXEL_DATA in found and is_padding(state.data, at):
            return found, end
        state.one_more()
        if group == 0xFFFE:
            if tag == _ITEM_END and delimited:
                return found, _after_delimiter(state, at, end)
            raise malformed("a delimiter stands where it must not")
        if keep and tag <= last:
            raise malformed("its elements are not in ascending order")
        if depth == 0 and group < 0x0004:
            raise malformed("its data set holds elements of the file meta or of a command")
        last = tag
        element, at = _element(state, tag, at + 4, end, depth, explicit=explicit)
        if keep:
            found[tag] = element
    if delimited:
        _ended_early(state, end)
    return found, at


def _element(state: _Walk, tag: int, at: int, end: int, depth: int, *, explicit: bool) -> tuple[Element, int]:
    """The element whose VR or length stands at `at`."""
    vr, length, start = _vr_and_length(state, at, end) if explicit else ("", *_length(state, at, end))
    if tag == PIXEL_DATA and state.syntax.encapsulated:
        if length == _UNDEFINED and vr in ("OB", "OW"):
            fragments, after = _fragments(state, start, end)
            if depth == 0:  # deeper ones belong to an icon
                state.fragments = fragments
            return Element(tag, vr, start, after), after
        if depth == 0:
            raise malformed("its compressed pixel data are not in fragments")
    if length == _UNDEFINED and (vr not in ("SQ", "UN", "") or tag == PIXEL_DATA):
        raise malformed("an element has no length")
    if length != _UNDEFINED:
        state.need(start, length, end)
    # an implicit sequence of defined length is told from other values by its tag alone
    if vr == "SQ" or length == _UNDEFINED or (not vr and tag in READ_SEQUENCES):
        delimited = length == _UNDEFINED
        return _sequence(state, tag, vr, start, end if delimited else start + length, depth=depth, delimited=delimited)
    return Element(tag, vr, start, start + length), start + length


def _vr_and_length(state: _Walk, at: int, end: int) -> tuple[str, int, int]:
    """VR, length of the value, and where the value begins (PS3.5 tables 7.1-1 and 7.1-2)."""
    state.need(at, 4, end)
    vr = _VRS.get(bytes(state.data[at : at + 2]))
    if vr is None:
        raise malformed("an element has an unknown value representation")
    if vr in _LONG_VRS:
        return vr, *_length(state, at + 4, end)
    (length,) = state.unpack("H", at + 2, 2, end)
    return vr, length, at + 4


def _length(state: _Walk, at: int, end: int) -> tuple[int, int]:
    (length,) = state.unpack("L", at, 4, end)
    return length, at + 4


def _sequence(
    state: _Walk, tag: int, vr: str, at: int, end: int, *, depth: int, delimited: bool
) -> tuple[Element, int]:
    """The items of a sequence; those of a UN of undefined length are in implicit VR little endian (PS3.5 section 6.2.2 note 2)."""
    if depth == MAX_DEPTH:
        raise malformed("its sequences are nested too deeply")
    if vr == "UN" and not state.syntax.little:
        raise malformed("an element has no length")
    explicit = state.syntax.explicit and vr == "SQ"
    keep = depth == 0 and tag in READ_SEQUENCES
    items: list[Mapping[int, Element]] = []
    start = at
    while at < end:
        group, number, length = state.unpack("HHL", at, 8, end)
        if delimited and (group, number) == (0xFFFE, 0xE0DD):
            return Element(tag, vr, start, at, tuple(items)), _after_delimiter(state, at, end)
        if group << 16 | number != _ITEM:
            raise malformed("a sequence holds something else than items")
        state.one_more()
        at += 8
        if length != _UNDEFINED:
            state.need(at, length, end)
        item_end = end if length == _UNDEFINED else at + length
        item, at = _elements(
            state, at, item_end, depth + 1, explicit=explicit, delimited=length == _UNDEFINED, keep=keep
        )
        if keep:
            items.append(item)
    if delimited:
        _ended_early(state, end)
    return Element(tag, vr, start, at, tuple(items)), at


def _fragments(state: _Walk, at: int, end: int) -> tuple[list[tuple[int, int]], int]:
    """The fragments and the position after them: basic offset table, fragments, delimiter (PS3.5 A.4). The table may only name one
    frame, at offset 0."""
    table: tuple[int, int] | None = None
    fragments: list[tuple[int, int]] = []
    while True:
        group, number, length = state.unpack("HHL", at, 8, end)
        if group << 16 | number == _SEQUENCE_END:
            at = _after_delimiter(state, at, end)
            break
        if group << 16 | number != _ITEM or length == _UNDEFINED:
            raise malformed("its fragments of pixel data are wrong")
        state.one_more()
        state.need(at + 8, length, end)
        if table is None:
            table = (at + 8, length)
        else:
            fragments.append((at + 8, at + 8 + length))
        at += 8 + length
    if table is None or not fragments:
        raise malformed("its pixel data hold no fragment")
    if table[1] and (table[1] != 4 or state.unpack("L", table[0], 4, end) != (0,)):
        raise malformed("its table of frames does not fit one frame")
    return fragments, at


def _after_delimiter(state: _Walk, at: int, end: int) -> int:
    (length,) = state.unpack("L", at + 4, 4, end)
    if length:
        raise malformed("a delimiter has a length")
    return at + 8


def _ended_early(state: _Walk, end: int) -> None:
    if end == len(state.data):
        raise ImageError("truncated_image")
    raise malformed("a delimiter is missing")


def is_padding(data: memoryview, at: int) -> bool:
    """Whether nothing but zero bytes follows."""
    return not data[at : at + 4096].tobytes().strip(b"\x00") and not data[at:].tobytes().strip(b"\x00")
