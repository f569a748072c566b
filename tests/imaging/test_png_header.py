from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ImageError
from app.imaging.decode import decode
from app.imaging.header import ImageLimits
from app.imaging.png_header import MAX_CHUNKS, read_png_header
from tests.support.image_bytes import SIGNATURE, chunk, exif, ihdr, png, raw_rows, value_or_refusal

LIMITS = ImageLimits(1, 4_096)


def test_what_a_header_tells() -> None:
    table = bytes(range(12))
    before = [chunk(b"PLTE", table), chunk(b"tRNS", b"\x07"), chunk(b"eXIf", exif(3))]
    data = png(np.zeros((9, 5), np.uint8), 2, 3, interlaced=True, before=before)
    header = read_png_header(memoryview(data), LIMITS)
    assert (header.width, header.height, header.bit_depth, header.color_type) == (5, 9, 2, 3)
    assert (header.interlaced, header.palette, header.transparency, header.orientation) == (True, table, b"\x07", 3)
    ((start, end),) = header.stream
    assert zlib.decompress(data[start:end])


def test_a_suggested_palette_of_a_color_image_is_dropped() -> None:
    data = png(np.zeros((9, 5, 3), np.uint8), 8, 2, before=[chunk(b"PLTE", bytes(30))])
    assert read_png_header(memoryview(data), LIMITS).palette == b""


def test_chunks_are_counted() -> None:
    few = png(np.zeros((4, 4), np.uint8), before=[chunk(b"tEXt", b"a\x00b")] * (MAX_CHUNKS - 3))
    assert read_png_header(memoryview(few), LIMITS).width == 4
    many = png(np.zeros((4, 4), np.uint8), before=[chunk(b"tEXt", b"a\x00b")] * (MAX_CHUNKS - 2))
    with pytest.raises(ImageError, match="too many chunks"):
        read_png_header(memoryview(many), LIMITS)


def test_the_best_compressed_film_passes_and_one_byte_less_cannot_be_whole() -> None:
    """Deflate's limit, 1,032 to 1, lies just beyond what the best encoder reaches on a constant film."""
    flat = np.zeros((4_096, 4_096), np.uint8)
    best = zlib.compress(raw_rows(flat, 8), 9)
    assert read_png_header(memoryview(png(flat, stream=best)), LIMITS).height == 4_096
    raw = 4_096 * 4_097
    with pytest.raises(ImageError) as refusal:
        read_png_header(memoryview(png(flat, stream=best[: raw // 1_032])), LIMITS)
    assert refusal.value.code == "truncated_image"


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (200, 200)])
def test_incompressible_films_pass_at_every_level(level: int, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, shape)
    data = png(noise, stream=zlib.compress(raw_rows(noise, 8), level))
    assert np.array_equal(decode(data, LIMITS).pixels, noise)


@pytest.mark.parametrize("width", range(1, 10))
@pytest.mark.parametrize("height", [1, 2, 5, 9])
def test_interlaced_films_of_every_small_size(width: int, height: int) -> None:
    image = np.random.default_rng(width).integers(0, 16, (height, width))
    assert np.array_equal(decode(png(image, 4, 0, interlaced=True), LIMITS).pixels, image * 17)


_KINDS = st.sampled_from([b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL", b"tEXt", b"QQQQ", b"1234"])


@given(st.lists(st.tuples(_KINDS, st.binary(max_size=20)), max_size=8), st.sampled_from([0, 2, 3, 4, 6]))
def test_any_chunks_give_a_header_or_a_coded_error(parts: list[tuple[bytes, bytes]], color: int) -> None:
    data = SIGNATURE + ihdr(3, 3, 8, color) + b"".join(chunk(kind, body) for kind, body in parts)
    value_or_refusal(lambda: read_png_header(memoryview(data), LIMITS))
