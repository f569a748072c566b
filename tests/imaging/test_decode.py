"""Every kind of JPEG and PNG, pixel by pixel, and every hostile file by its code."""

from __future__ import annotations

import hashlib
import io
import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.bundle.input_spec import InputSpec
from app.domain import Radiograph
from app.errors import CxrError, ImageError, RefusedError
from app.imaging.decode import ImageLimits, decode
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.imaging.quality import refuse_blank
from app.preprocessing import resize_to_input
from tests.support.hostile import HostileImage, hostile_images
from tests.support.image_bytes import chunk, exif, exif_segment, png, value_or_refusal, with_segment

LIMITS = ImageLimits(min_px=128, max_px=4_096)
ANY_SIZE = ImageLimits(min_px=1, max_px=4_096)
SPEC = InputSpec.model_validate(
    {
        "size": 224,
        "channels": 1,
        "resize": "stretch",
        "sixteen_bit": "significant_bits",
        "normalisation": {"kind": "per_image", "std_floor": 8.0},
    }
)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
Samples = NDArray[np.integer]
LUMA_ERROR = {8: 0.51, 16: 1.6}  # steps of the depth; the library's weights are rounded to 15 bits


def samples(depth: int, channels: int, height: int = 37, width: int = 29) -> Samples:
    rng = np.random.default_rng(depth * 10 + channels)
    return rng.integers(0, 2**depth, (height, width, channels) if channels > 1 else (height, width))


def luma(rgb: NDArray[np.generic]) -> NDArray[np.float64]:
    """ITU-R BT.601 of [..., 3]."""
    weighted: NDArray[np.float64] = rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return weighted


def pixels(data: bytes) -> NDArray[np.int64]:
    return decode(data, ANY_SIZE).pixels.astype(np.int64)


# --- PNG: every colour type and bit depth


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "step"), [(1, 255), (2, 85), (4, 17), (8, 1), (16, 1)])
def test_png_gray(depth: int, step: int, interlaced: bool) -> None:
    image = samples(depth, 1)
    film = decode(png(image, depth, 0, interlaced=interlaced), ANY_SIZE)
    assert film.pixels.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert np.array_equal(film.pixels, image * step)


@pytest.mark.parametrize(("depth", "step"), [(1, 255), (2, 85), (4, 17), (8, 1), (16, 1)])
def test_png_gray_with_transparent_value(depth: int, step: int) -> None:
    image = samples(depth, 1)
    key = int(image[5, 5])
    data = png(image, depth, 0, before=[chunk(b"tRNS", key.to_bytes(2, "big"))])
    assert np.array_equal(pixels(data), np.where(image == key, 0, image) * step)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_rgb(depth: int, interlaced: bool) -> None:
    image = samples(depth, 3)
    decoded = pixels(png(image, depth, 2, interlaced=interlaced))
    assert np.abs(decoded - luma(image)).max() <= LUMA_ERROR[depth]
    equal = np.repeat(samples(depth, 1)[:, :, None], 3, axis=2)
    assert np.array_equal(pixels(png(equal, depth, 2)), equal[:, :, 0])


def test_png_rgb_channels_are_not_swapped() -> None:
    red = np.zeros((20, 20, 3), np.uint8)
    red[:, :, 0] = 200
    assert set(pixels(png(red, 8, 2)).ravel()) == {60}  # 0.299 * 200


@pytest.mark.parametrize("depth", [8, 16])
def test_png_rgb_with_transparent_color(depth: int) -> None:
    image = samples(depth, 3)
    key = image[3, 4]
    data = png(image, depth, 2, before=[chunk(b"tRNS", b"".join(int(v).to_bytes(2, "big") for v in key))])
    plain = pixels(png(image, depth, 2))
    plain[(image == key).all(axis=2)] = 0
    assert plain[3, 4] == 0
    assert np.array_equal(pixels(data), plain)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_png_palette(depth: int, transparent: bool, interlaced: bool) -> None:
    image = samples(depth, 1)
    table = np.random.default_rng(4).integers(0, 256, (2**depth, 3))
    alpha = np.full(2**depth, 255)
    before = [chunk(b"PLTE", table.astype(np.uint8).tobytes())]
    if transparent:
        alpha[: 2 ** (depth - 1)] = np.arange(2 ** (depth - 1)) * 2
        before.append(chunk(b"tRNS", alpha[: 2 ** (depth - 1)].astype(np.uint8).tobytes()))
    expected = np.rint(luma(table) * alpha / 255)[image]
    assert np.array_equal(pixels(png(image, depth, 3, interlaced=interlaced, before=before)), expected)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_gray_alpha_is_laid_on_black(depth: int, interlaced: bool) -> None:
    image = samples(depth, 2, height=300)  # more rows than one strip
    decoded = pixels(png(image, depth, 4, interlaced=interlaced))
    assert np.array_equal(decoded, np.rint(image[:, :, 0] * image[:, :, 1] / (2**depth - 1)))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_rgba_is_laid_on_black(depth: int, interlaced: bool) -> None:
    image = samples(depth, 4, height=300)
    decoded = pixels(png(image, depth, 6, interlaced=interlaced))
    assert np.abs(decoded - luma(image[:, :, :3]) * image[:, :, 3] / (2**depth - 1)).max() <= LUMA_ERROR[depth] + 0.5
    image[:, :, 3] = 2**depth - 1
    assert np.array_equal(pixels(png(image, depth, 6)), pixels(png(image[:, :, :3], depth, 2)))


def test_twelve_bits_in_sixteen_keep_every_value() -> None:
    ramp = np.tile(np.arange(4_096, dtype=np.uint16), (200, 1))
    film = decode(encode_png(ramp), LIMITS)
    assert film.pixels.dtype == np.uint16
    assert np.array_equal(film.pixels, ramp)


def test_png_in_many_pieces_with_text_and_padding() -> None:
    image = samples(8, 1, 200, 200)
    whole = png(image)
    body = whole[whole.index(b"IDAT") + 4 : -16]
    pieces = b"".join(chunk(b"IDAT", body[i : i + 99]) for i in range(0, len(body), 99))
    data = whole[:33] + chunk(b"gAMA", bytes(4)) + chunk(b"tEXt", b"a\x00b") + pieces + chunk(b"IEND") + b"\x00\r\n "
    assert np.array_equal(pixels(data), image)


# --- JPEG


def jpeg(image: Image.Image, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=90, **options)
    return sink.getvalue()


def colored() -> Image.Image:
    base = phantom(5, height=203, width=181)
    return Image.fromarray(np.dstack([base, base[::-1], np.roll(base, 40, axis=1)]))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"optimize": True}])
def test_jpeg_gray_equals_an_independent_reader(options: dict[str, object]) -> None:
    data = jpeg(Image.fromarray(phantom(5, height=203, width=181)), **options)
    assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
def test_jpeg_color_gives_its_stored_luma(options: dict[str, object]) -> None:
    data = jpeg(colored(), **options)
    reader = Image.open(io.BytesIO(data))
    reader.draft("YCbCr", None)
    assert np.array_equal(pixels(data), np.asarray(reader)[:, :, 0])


def test_jpeg_stored_as_rgb() -> None:
    data = jpeg(colored(), keep_rgb=True)
    assert np.abs(pixels(data) - luma(np.asarray(Image.open(io.BytesIO(data))))).max() <= 0.51


def test_jpeg_quality_100_is_close_to_what_was_drawn() -> None:
    image = phantom(8)
    assert np.abs(pixels(encode_jpeg(image, 100)) - image).max() <= 2


@pytest.mark.parametrize("count", [1, 7, 5_000])
def test_jpeg_padding_after_the_end_is_allowed(count: int) -> None:
    assert pixels(encode_jpeg(phantom(1)) + bytes(count) + b"\r\n").shape == (512, 448)


# --- orientation


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation(value: int, order: str) -> None:
    image = phantom(2, height=160, width=208)
    block = exif(value, order)
    for data in (with_segment(encode_jpeg(image), exif_segment(block)), png(image, before=[chunk(b"eXIf", block)])):
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        film = decode(data, LIMITS)
        assert np.array_equal(film.pixels, expected)
        assert film.pixels.flags.c_contiguous
        assert (film.height, film.width) == ((208, 160) if value > 4 else (160, 208))


# --- the value that comes out


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_buffer_is_taken_and_left_alone(kind: type) -> None:
    for data, name in ((encode_jpeg(phantom(1)), "jpeg"), (encode_png(phantom(1)), "png")):
        buffer = kind(data)
        film = decode(buffer, LIMITS)
        assert film.format == name
        assert film.sha256 == hashlib.sha256(data).hexdigest()
        assert bytes(buffer) == data
        assert film.acquisition is None


@pytest.mark.parametrize("encode", [encode_jpeg, encode_png])
def test_limits_are_inclusive(encode: object) -> None:
    assert callable(encode)
    for sides in ((128, 128), (128, 4_096), (4_096, 128)):
        assert decode(encode(np.full(sides, 7, np.uint8)), LIMITS).pixels.shape == sides
    with pytest.raises(RefusedError) as small:
        decode(encode(np.full((127, 4_096), 7, np.uint8)), LIMITS)
    assert small.value.facts == {"width": 4_096, "height": 127, "limit": 128}
    with pytest.raises(ImageError) as large:
        decode(encode(np.full((128, 4_097), 7, np.uint8)), LIMITS)
    assert large.value.facts == {"width": 4_097, "height": 128, "limit": 4_096}


# --- hostile files


def judge(data: bytes) -> Radiograph:
    film = decode(data, LIMITS)
    refuse_blank(resize_to_input(film, SPEC)[2])
    return film


@pytest.mark.parametrize("case", hostile_images(), ids=lambda case: case.name)
def test_hostile_image_is_refused_by_its_code(case: HostileImage) -> None:
    started = time.perf_counter()
    with pytest.raises(CxrError) as refusal:
        judge(case.data)
    assert (refusal.value.status, refusal.value.code) == (case.status, case.code)
    assert refusal.value.detail
    assert time.perf_counter() - started < 10


def test_the_corpus_is_as_large_as_promised() -> None:
    names = [case.name for case in hostile_images()]
    assert len(names) == len(set(names)) >= 45


def test_no_message_repeats_the_file() -> None:
    canary = b"Q7CANARY"
    files = [
        canary * 30,
        b"%PDF" + canary * 30,
        b"<" + canary * 30,
        png(phantom(1), before=[chunk(b"tEXt", b"a\x00" + canary), chunk(b"CANA", canary)]),
        encode_jpeg(phantom(1)) + canary,
        with_segment(encode_jpeg(phantom(1)), exif_segment(canary)),
    ]
    for data in files:
        with pytest.raises(CxrError) as refusal:
            decode(data, LIMITS)
        assert "CANA" not in f"{refusal.value} {refusal.value.detail} {refusal.value.facts}".upper()


def test_every_cut_of_a_file_is_refused() -> None:
    """No prefix of a film may pass for the film."""
    for whole in (encode_jpeg(phantom(1, height=128, width=128)), encode_png(phantom(1, height=128, width=128))):
        for cut in itertools.chain(range(64), range(64, len(whole), 37), range(len(whole) - 16, len(whole))):
            with pytest.raises(ImageError) as refusal:
                decode(whole[:cut], LIMITS)
            assert refusal.value.code == ("truncated_image" if cut >= 8 else refusal.value.code)


_SEEDS = (
    jpeg(Image.fromarray(phantom(1, height=40, width=33)), progressive=True),
    with_segment(jpeg(colored().resize((40, 24)), subsampling=2), exif_segment(exif(6))),
    png(samples(8, 1), before=[chunk(b"eXIf", exif(5)), chunk(b"tEXt", b"a\x00b")]),
    png(samples(2, 1), 2, 3, before=[chunk(b"PLTE", bytes(range(12))), chunk(b"tRNS", b"\x01\x02")], interlaced=True),
    png(samples(16, 4), 16, 6),
)


def _with_checksums(data: bytes) -> bytes:
    """The chunks of a mutated PNG with right checksums, as far as their lengths make sense."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        out += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return out + data[at:]


@settings(max_examples=600, deadline=None)
@given(
    seed=st.sampled_from(_SEEDS),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(min_size=1, max_size=6)), min_size=1, max_size=6
    ),
    repair=st.booleans(),
)
def test_mutants_raise_nothing_but_coded_errors(
    seed: bytes, edits: list[tuple[float, int, bytes]], repair: bool
) -> None:
    data = bytearray(seed)
    for where, how, what in edits:
        at = int(where * len(data))
        if how == 0:
            data[at : at + len(what)] = what
        elif how == 1:
            data[at:at] = what
        elif how == 2:
            del data[at : at + len(what)]
        else:
            del data[at:]
    mutant = _with_checksums(bytes(data)) if repair and seed[:1] == b"\x89" else bytes(data)
    film = value_or_refusal(lambda: decode(mutant, ImageLimits(min_px=1, max_px=512)))
    assert isinstance(film, CxrError) or film.pixels.ndim == 2


# --- real films


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_no_real_film_is_refused() -> None:
    files = sorted(p for p in SHARED.rglob("*") if p.suffix in {".jpg", ".jpeg", ".png"})
    assert len(files) > 8_000
    for path in files:
        data = path.read_bytes()
        film = decode(data, ImageLimits(min_px=100, max_px=4_096))
        with Image.open(path) as reader:
            assert (film.width, film.height) == reader.size
