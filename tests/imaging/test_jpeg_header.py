from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.errors import ImageError
from app.imaging.header import ImageLimits
from app.imaging.jpeg_header import MAX_SCANS, read_jpeg_header
from app.imaging.phantom import encode_jpeg, phantom
from tests.support.image_bytes import exif, exif_segment, gray_progressive, segment, value_or_refusal, with_segment

LIMITS = ImageLimits(1, 4_096)


def test_what_a_header_tells() -> None:
    header = read_jpeg_header(memoryview(encode_jpeg(phantom(1, height=200, width=150))), LIMITS)
    assert (header.width, header.height, header.components) == (150, 200, 1)
    assert (header.progressive, header.orientation, header.scans) == (False, 1, 1)


def test_progressive_color_with_orientation() -> None:
    sink = io.BytesIO()
    Image.fromarray(phantom(1, height=64, width=80)).convert("RGB").save(sink, "JPEG", progressive=True)
    data = with_segment(sink.getvalue(), exif_segment(exif(8, ">")), segment(0xFE, b"a comment"))
    header = read_jpeg_header(memoryview(data), LIMITS)
    assert (header.components, header.progressive, header.orientation) == (3, True, 8)
    assert header.scans >= 6


def test_scans_are_counted() -> None:
    assert read_jpeg_header(memoryview(gray_progressive(64, 64, MAX_SCANS)), LIMITS).scans == MAX_SCANS
    with pytest.raises(ImageError, match="too many scans"):
        read_jpeg_header(memoryview(gray_progressive(64, 64, MAX_SCANS + 1)), LIMITS)


def test_a_scan_that_never_came_is_truncation() -> None:
    """Cut after a scan and closed by an end marker: a decoder paints the rest without a word."""
    sink = io.BytesIO()
    Image.fromarray(phantom(1, height=64, width=80)).save(sink, "JPEG", progressive=True)
    data = sink.getvalue()
    starts = [i for i in range(len(data)) if data[i : i + 2] == b"\xff\xda"]
    for start in starts[1:]:
        with pytest.raises(ImageError) as refusal:
            read_jpeg_header(memoryview(data[:start] + b"\xff\xd9"), LIMITS)
        assert refusal.value.code == "truncated_image"


@given(st.binary(max_size=300))
def test_any_bytes_give_a_header_or_a_coded_error(rest: bytes) -> None:
    value_or_refusal(lambda: read_jpeg_header(memoryview(b"\xff\xd8" + rest), LIMITS))


_MARKERS = st.sampled_from([0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE1, 0xE2, 0xFE, 0xD0, 0xD8, 0xD9])


@given(st.lists(st.tuples(_MARKERS, st.binary(max_size=24)), max_size=8))
def test_any_segments_give_a_header_or_a_coded_error(parts: list[tuple[int, bytes]]) -> None:
    data = b"\xff\xd8" + b"".join(segment(marker, body) for marker, body in parts) + b"\xff\xd9"
    value_or_refusal(lambda: read_jpeg_header(memoryview(data), LIMITS))
