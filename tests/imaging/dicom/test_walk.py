"""Where the walk finds things, in each encoding; what it refuses stands in the hostile corpus."""

from __future__ import annotations

import pytest

from app.errors import ImageError
from app.imaging.dicom.transfer_syntax import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, SYNTAXES, TransferSyntax
from app.imaging.dicom.walk import DataSet, walk
from tests.support.dicom_bytes import (
    BIG,
    IMPLICIT,
    JPEG,
    LITTLE,
    UNDEFINED,
    delimiter,
    element,
    encapsulated,
    item,
    us,
)

WRITTEN = [(LITTLE, EXPLICIT_LITTLE), (IMPLICIT, IMPLICIT_LITTLE), (BIG, EXPLICIT_BIG)]


def value(found: DataSet, tag: int) -> bytes:
    element = found.elements[tag]
    return found.data[element.start : element.end].tobytes()


@pytest.mark.parametrize(("uid", "syntax"), WRITTEN)
def test_values_of_each_encoding(uid: str, syntax: TransferSyntax) -> None:
    content = element(0x00080060, "CS", b"CR", syntax=uid) + element(0x00280010, "US", us(7, syntax=uid), syntax=uid)
    content += element(0x00281200, "OW", b"abcdef", syntax=uid) + element(0x00400000, "UL", b"odd", syntax=uid)
    found = walk(memoryview(content), syntax)
    assert [value(found, tag) for tag in found.elements] == [b"CR", us(7, syntax=uid), b"abcdef", b"odd"]
    assert [found.elements[tag].vr for tag in found.elements] == (
        [""] * 4 if uid == IMPLICIT else ["CS", "US", "OW", "UL"]
    )


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize(("uid", "syntax"), WRITTEN)
def test_items_of_sequences_that_are_read(uid: str, syntax: TransferSyntax, undefined: bool) -> None:
    content = element(0x00080100, "SH", b"R-10206 ", syntax=uid)
    if undefined:
        one = item(content, length=UNDEFINED, syntax=uid) + delimiter(0xE00D, uid)
        sequence = element(0x00540220, "SQ", one * 2, length=UNDEFINED, syntax=uid) + delimiter(0xE0DD, uid)
    else:
        sequence = element(0x00540220, "SQ", item(content, syntax=uid) * 2, syntax=uid)
    data = sequence + element(0x00600010, "LO", b"last", syntax=uid)
    found = walk(memoryview(data), syntax)
    items = found.elements[0x00540220].items
    assert [[data[e.start : e.end] for e in one.values()] for one in items] == [[b"R-10206 "]] * 2
    assert value(found, 0x00600010) == b"last"


def test_unknown_of_undefined_length_is_implicit_inside() -> None:
    """PS3.5 section 6.2.2 note 2."""
    inner = item(element(0x00080100, "SH", b"abcd", syntax=IMPLICIT))
    data = element(0x00091010, "UN", inner, length=UNDEFINED) + delimiter(0xE0DD) + element(0x00100020, "LO", b"ID")
    found = walk(memoryview(data), EXPLICIT_LITTLE)
    assert list(found.elements) == [0x00091010, 0x00100020]
    with pytest.raises(ImageError, match="malformed_dicom"):
        walk(memoryview(data.replace(b"UN", b"SQ")), EXPLICIT_LITTLE)


def test_fragments_and_what_follows_them() -> None:
    data = encapsulated(b"abcd", b"ef", b"", table=bytes(4)) + element(0xFFFAFFFA, "SQ", b"")
    found = walk(memoryview(data), SYNTAXES[JPEG])
    assert [data[start:end] for start, end in found.fragments] == [b"abcd", b"ef", b""]
    assert list(found.elements) == [0x7FE00010, 0xFFFAFFFA]


def test_zeros_are_padding_only_after_the_pixels() -> None:
    pixels = element(0x7FE00010, "OB", b"ab")
    assert list(walk(memoryview(pixels + bytes(10_000)), EXPLICIT_LITTLE).elements) == [0x7FE00010]
    for rest in (bytes(9_999) + b"x", bytes(8) + pixels):
        with pytest.raises(ImageError):
            walk(memoryview(pixels + rest), EXPLICIT_LITTLE)
    with pytest.raises(ImageError, match="malformed_dicom"):
        walk(memoryview(element(0x00080060, "CS", b"CR") + bytes(100)), EXPLICIT_LITTLE)
