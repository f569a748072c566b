"""From DICOM bytes to a Radiograph: every uncompressed syntax, colour, what the decoder is asked, and pydicom as a second reader."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from app.errors import ImageError, RefusedError
from app.imaging.codecs import decode_jpeg_gray
from app.imaging.decode import ImageLimits, decode
from app.imaging.dicom.decoder_protocol import SYNTAXES as DECODER_SYNTAXES
from app.imaging.dicom.frame import FrameRequest
from app.imaging.dicom.part10 import _inflate
from app.imaging.dicom.transfer_syntax import SYNTAXES
from app.imaging.jpeg_header import read_jpeg_header
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from tests.support.dicom_bytes import BIG, JPEG, RLE, compressed_film, deflate, film, us
from tests.support.dicom_films import as_bytes, dicom_film, file_dataset

LIMITS = ImageLimits(min_px=128, max_px=4_096)
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def pixels(data: bytes) -> NDArray[np.uint8]:
    result = decode(data, LIMITS).pixels
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    return np.asarray(result, np.uint8)


def in_syntax(data: Dataset, syntax: UID) -> bytes:
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and data.BitsAllocated == 16:  # pydicom writes pixel bytes as they are
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    return as_bytes(data)


def as_pydicom_shows_it(data: bytes) -> NDArray[np.float64]:
    """Display values 0..255 by pydicom's decoder and LUT functions."""
    film = pydicom.dcmread(io.BytesIO(data))
    shown = apply_voi_lut(apply_modality_lut(film.pixel_array, film), film).astype(np.float64)
    full = float(1 << film.BitsStored)
    low = -full / 2 if film.PixelRepresentation else 0.0
    gray = (shown - low) / (full - 1) * 255
    return 255 - gray if film.PhotometricInterpretation == "MONOCHROME1" else gray


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (8, True), (10, False), (12, True), (16, False), (16, True)])
def test_native_films_as_pydicom_shows_them(bits: int, signed: bool, photometric: str, syntax: UID) -> None:
    values = np.random.default_rng(bits).integers(0, 1 << bits, (131, 129)) - signed * (1 << bits - 1)
    kind = ("i" if signed else "u") + ("1" if bits == 8 else "2")
    middle = 0 if signed else 1 << bits - 1
    data = in_syntax(
        file_dataset(
            1, pixels=values.astype(kind), bits_stored=bits, PhotometricInterpretation=photometric,
            WindowCenter=middle + 3, WindowWidth=(1 << bits) // 3,
        ),
        syntax,
    )  # fmt: skip
    assert np.abs(pixels(data) - as_pydicom_shows_it(data)).max() <= 0.5 + 1e-6
    found = decode(data, LIMITS).acquisition
    assert found is not None
    assert (found.transfer_syntax, found.photometric, found.bits_stored) == (syntax, photometric, bits)


def test_a_phantom_comes_back_as_it_was_drawn() -> None:
    assert np.array_equal(pixels(dicom_film(3)), phantom(3, height=512, width=448))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_buffer_is_taken_and_left_alone(kind: type) -> None:
    data = dicom_film(1)
    buffer = kind(data)
    result = decode(buffer, LIMITS)
    assert (result.format, result.sha256) == ("dicom", hashlib.sha256(data).hexdigest())
    assert bytes(buffer) == data
    result.pixels[0, 0] = 1  # a copy of its own


def test_sides_in_their_order() -> None:
    assert pixels(dicom_film(1, size=(140, 200))).shape == (140, 200)
    with pytest.raises(RefusedError, match="too_small"):
        decode(dicom_film(1, size=(127, 200)), LIMITS)


# --- colour


def color(photometric: str, data: bytes, *, planar: int = 0, side: int = 128) -> bytes:
    changes = {
        "t00280002": ("US", us(3)),
        "t00280004": ("CS", photometric.encode()),
        "t00280006": ("US", us(planar)),
        "t7FE00010": ("OB", data),
    }
    return film(changes=changes, bits=8, side=side)


def rgb() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (128, 128, 3), np.uint8)


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_becomes_luma_as_in_other_pictures(planar: int) -> None:
    samples = rgb()
    stored = np.moveaxis(samples, 2, 0).tobytes() if planar else samples.tobytes()
    shown = pixels(color("RGB ", stored, planar=planar))
    assert np.abs(shown - samples @ [0.299, 0.587, 0.114]).max() <= 0.51
    assert np.array_equal(shown, decode(encode_png(samples[:, :, ::-1]), LIMITS).pixels)


@pytest.mark.parametrize("planar", [0, 1])
def test_ybr_full_gives_its_luma_untouched(planar: int) -> None:
    samples = rgb()
    stored = np.moveaxis(samples, 2, 0).tobytes() if planar else samples.tobytes()
    assert np.array_equal(pixels(color("YBR_FULL", stored, planar=planar)), samples[:, :, 0])


def test_ybr_full_422_shares_color_between_two_pixels() -> None:
    luma = rgb()[:, :, 0]
    stored = np.zeros((128, 64, 4), np.uint8)
    stored[:, :, 0], stored[:, :, 1], stored[:, :, 2:] = luma[:, ::2], luma[:, 1::2], 99
    assert np.array_equal(pixels(color("YBR_FULL_422", stored.tobytes())), luma)


def test_bytes_in_big_endian_words_are_exchanged_in_pairs() -> None:
    """PS3.5 section 8.2: OW of 8-bit samples, big endian."""
    ramp = (np.arange(129 * 129) % 256).astype(np.uint8)
    pairs = np.append(ramp, 0).astype(np.uint8).reshape(-1, 2)[:, ::-1]
    data = film(BIG, bits=8, side=129, t7FE00010=("OW", pairs.tobytes()))
    assert np.array_equal(pixels(data).ravel(), ramp)
    assert np.array_equal(pydicom.dcmread(io.BytesIO(data)).pixel_array.ravel(), ramp)
    assert np.array_equal(pixels(film(BIG, bits=8, side=128)).ravel(), np.arange(128 * 128) % 256)


@pytest.mark.parametrize("pad", [0, 1])
def test_a_pad_byte_after_an_odd_number(pad: int) -> None:
    ramp = (np.arange(129 * 129) % 256).astype(np.uint8)
    assert np.array_equal(pixels(film(bits=8, side=129, t7FE00010=("OB", ramp.tobytes() + bytes(pad)))).ravel(), ramp)


def test_zero_bytes_after_the_film_are_padding() -> None:
    assert np.array_equal(pixels(dicom_film(1) + bytes(5_000)), pixels(dicom_film(1)))


# --- compressed


class Asked:
    """Notes what it was asked and answers with what it was given."""

    def __init__(self, answer: NDArray[Any]) -> None:
        self.answer = answer
        self.request: FrameRequest | None = None

    def decode(self, request: FrameRequest) -> NDArray[Any]:
        self.request = request
        return self.answer


def test_what_the_decoder_is_asked() -> None:
    decoder = Asked(phantom(1, height=128, width=128))
    result = decode(compressed_film(b"abcd", b"efgh", table=bytes(4)), LIMITS, decoder)
    assert decoder.request == FrameRequest(JPEG, b"abcdefgh", 128, 128, 1, 8, 8, False, "MONOCHROME2", 0)
    assert np.array_equal(result.pixels, decoder.answer)


def test_signed_samples_of_a_decoder() -> None:
    values = np.arange(-(1 << 15), 1 << 15, 4).astype(np.int16).reshape(128, 128)
    data = file_dataset(1, pixels=values, bits_stored=16, WindowCenter=0, WindowWidth=65_536)
    native = as_bytes(data)
    data.file_meta.TransferSyntaxUID = UID(RLE)
    data.PixelData = pydicom.encaps.encapsulate([bytes(64)], has_bot=False)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    assert np.array_equal(decode(as_bytes(data), LIMITS, Asked(values)).pixels, pixels(native))


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros((128, 127), np.uint8), np.zeros((128, 128), np.uint16), np.zeros((128, 128), np.float32),
        np.zeros((128, 128, 3), np.uint8), np.zeros((128, 128), np.bool_),
    ],
)  # fmt: skip
def test_a_decoder_is_not_trusted(answer: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match="undecodable_image"):
        decode(compressed_film(b"abcd"), LIMITS, Asked(answer))


@pytest.mark.parametrize("uid", [uid for uid, syntax in SYNTAXES.items() if syntax.encapsulated])
def test_compressed_films_need_a_decoder(uid: str) -> None:
    with pytest.raises(ImageError) as refusal:
        decode(compressed_film(bytes(64), syntax=uid), LIMITS)
    assert (refusal.value.code, refusal.value.facts["what"]) == ("unsupported_transfer_syntax", SYNTAXES[uid].name)


def test_what_is_read_is_what_the_decoders_know() -> None:
    assert {uid for uid, syntax in SYNTAXES.items() if syntax.encapsulated} == set(DECODER_SYNTAXES)
    assert {uid for uid, syntax in SYNTAXES.items() if not syntax.encapsulated} == set(NATIVE)


def test_a_jpeg_in_dicom_is_the_jpeg() -> None:
    stream = encode_jpeg(phantom(1, height=128, width=128))

    class Decoder:
        def decode(self, request: FrameRequest) -> NDArray[Any]:
            view = memoryview(request.codestream)
            return decode_jpeg_gray(view, read_jpeg_header(view, LIMITS))

    dicom = decode(compressed_film(stream + bytes(len(stream) % 2)), LIMITS, Decoder())
    assert np.array_equal(dicom.pixels, decode(stream, LIMITS).pixels)


# --- deflated


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 1_048_576, 1_048_577, 3_000_000])
def test_inflating_in_steps_gives_every_byte(size: int, level: int) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    assert bytes(_inflate(memoryview(deflate(content, level)), 3_000_000)) == content
    plain = bytes(size)
    assert bytes(_inflate(memoryview(deflate(plain, level) + bytes(3)), 3_000_000)) == plain


# --- which files are DICOM


def test_the_prefix_alone_makes_a_dicom_file() -> None:
    tiff = b"II*\x00" + bytes(124)
    assert decode(tiff + dicom_film(1)[128:], LIMITS).format == "dicom"
    assert decode(b"Made by an archive of 1998".ljust(128) + dicom_film(1)[128:], LIMITS).format == "dicom"
    with pytest.raises(ImageError, match="unsupported_format"):
        decode(dicom_film(1)[132:], LIMITS)


def test_pictures_have_their_own_limit_of_bytes() -> None:
    for data in (encode_jpeg(phantom(1)), encode_png(phantom(1))):
        assert decode(data, ImageLimits(128, 4_096, max_bytes=len(data))).acquisition is None
        with pytest.raises(ImageError) as refusal:
            decode(data, ImageLimits(128, 4_096, max_bytes=len(data) - 1))
        assert (refusal.value.code, refusal.value.facts["what"]) == ("payload_too_large", "image")
