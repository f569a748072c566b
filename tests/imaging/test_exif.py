from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import CxrError, ImageError
from app.imaging.exif import orientation
from tests.support.image_bytes import exif, value_or_refusal


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_stated_orientation(value: int, order: str) -> None:
    assert orientation(exif(value, order)) == value


def test_unknown_or_absent_means_upright() -> None:
    assert orientation(exif(0)) == 1
    assert orientation(b"II" + struct.pack("<HIH", 42, 8, 0)) == 1
    other = b"II" + struct.pack("<HIHHHII", 42, 8, 1, 0x0110, 2, 1, 0)
    assert orientation(other) == 1


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\x00",
        b"XX*\x00\x08\x00\x00\x00",
        exif(9),
        exif(1, kind=4),
        exif(1, count=2),
        exif(1, following=8),
        b"II" + struct.pack("<HIH", 43, 8, 0),
        b"II" + struct.pack("<HIH", 42, 2, 0),
        b"II" + struct.pack("<HIH", 42, 2**32 - 1, 0),
        b"II" + struct.pack("<HIH", 42, 8, 65_535),
    ],
)
def test_damaged_block_is_refused(block: bytes) -> None:
    with pytest.raises(ImageError) as refusal:
        orientation(block)
    assert refusal.value.code == "malformed_image"


@given(st.sampled_from([b"II*\x00", b"MM\x00*", b""]), st.binary(max_size=80))
def test_any_bytes_give_an_orientation_or_a_coded_error(head: bytes, rest: bytes) -> None:
    found = value_or_refusal(lambda: orientation(head + rest))
    assert found.code == "malformed_image" if isinstance(found, CxrError) else 1 <= found <= 8
