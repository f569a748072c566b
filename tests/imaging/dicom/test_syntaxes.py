"""Every compressed transfer syntax through the decoder processes, pixel by pixel.

Lossless: against the pixels before coding. Lossy: against a decoder of other people on the same codestream (dcmtk's IJG builds for
JPEG; dcmtk's CharLS for near-lossless JPEG-LS, whose error bound is checked too; gdcm's and Pillow's builds for JPEG 2000: all three
are OpenJPEG inside, so that lossless originals are the stronger proof there; OpenJPH for HTJ2K).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openjpeg.utils
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import RLELossless

from app.imaging.dicom.decoder_protocol import SYNTAXES
from app.imaging.dicom.decoders import DecoderPool
from app.imaging.dicom.frame import FrameRequest
from tests.support import htj2k_streams
from tests.support.dicom_frames import codestream, dataset, pattern, plain_pixels, recode, recode_file, request, smooth

JPEG, JPEG_LS = "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.4.8"
J2K_LOSSLESS, J2K = JPEG + "90", JPEG + "91"
DEPTHS = [(8, False), (10, False), (12, False), (16, False), (8, True), (12, True), (16, True)]
OPENJPH = (htj2k_streams.ROWS, htj2k_streams.COLUMNS)
IDS = [f"{bits}-bit {'signed' if signed else 'unsigned'}" for bits, signed in DEPTHS]


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    decoders = DecoderPool(1, timeout_s=60, memory_bytes=2_000_000_000)
    yield decoders
    assert decoders.restarts == 0
    decoders.close()


def exact(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.dtype.kind == expected.dtype.kind
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def gray(bits: int, signed: bool, sides: tuple[int, int] = (72, 90)) -> tuple[Dataset, NDArray[Any]]:
    pixels = pattern(*sides, bits=bits, signed=signed)
    return dataset(pixels, bits), pixels


# ---- lossless: the pixels before coding


@pytest.mark.parametrize(("bits", "signed"), DEPTHS, ids=IDS)
@pytest.mark.parametrize("options", [("+e1",), *(("+el", "+sv", str(n)) for n in range(1, 8))], ids="-".join)
def test_jpeg_lossless(pool: DecoderPool, tmp_path: Path, bits: int, signed: bool, options: tuple[str, ...]) -> None:
    film, pixels = gray(bits, signed)
    coded = recode(film, tmp_path, "dcmcjpeg", *options)
    assert coded.file_meta.TransferSyntaxUID == JPEG + ("70" if options == ("+e1",) else "57")
    exact(pool.decode(request(coded)), pixels)
    exact(plain_pixels(recode(coded, tmp_path, "dcmdjpeg")), pixels)


@pytest.mark.parametrize(("bits", "signed"), DEPTHS, ids=IDS)
def test_jpeg_ls_lossless(pool: DecoderPool, tmp_path: Path, bits: int, signed: bool) -> None:
    film, pixels = gray(bits, signed)
    coded = recode(film, tmp_path, "dcmcjpls")
    assert coded.file_meta.TransferSyntaxUID == JPEG_LS + "0"
    exact(pool.decode(request(coded)), pixels)


@pytest.mark.parametrize(("bits", "signed"), DEPTHS, ids=IDS)
def test_jpeg_2000_lossless(pool: DecoderPool, bits: int, signed: bool) -> None:
    film, pixels = gray(bits, signed)
    coded = openjpeg.utils.encode_array(pixels, bits_stored=bits)
    exact(pool.decode(as_j2k(film, J2K_LOSSLESS, coded)), pixels)


@pytest.mark.parametrize(("bits", "signed"), DEPTHS, ids=IDS)
def test_rle(pool: DecoderPool, tmp_path: Path, bits: int, signed: bool) -> None:
    film, pixels = gray(bits, signed)
    coded = recode(film, tmp_path, "dcmcrle")
    exact(pool.decode(request(coded)), pixels)
    film.compress(RLELossless, generate_instance_uid=False)  # pydicom's own encoder chooses other runs
    exact(pool.decode(request(film)), pixels)


@pytest.mark.parametrize("name", ["GRAY_8", "GRAY_16", "SIGNED_16"])
@pytest.mark.parametrize("uid", [JPEG + "201", JPEG + "202"])
def test_htj2k_lossless(pool: DecoderPool, name: str, uid: str) -> None:
    bits, signed = int(name.rsplit("_", 1)[1]), name.startswith("SIGNED")
    film, pixels = gray(bits, signed, OPENJPH)
    exact(pool.decode(as_j2k(film, uid, getattr(htj2k_streams, name))), pixels)


@pytest.mark.parametrize("coder", ["70", "jls line", "jls plane", "rle", "90", "202"])
def test_lossless_rgb(pool: DecoderPool, tmp_path: Path, coder: str) -> None:
    pixels = pattern(*(OPENJPH if coder == "202" else (72, 90)), bits=8, samples=3)
    film = dataset(pixels, 8)
    match coder:
        case "70":
            frame = request(recode(film, tmp_path, "dcmcjpeg", "+e1"))
        case "jls line":
            frame = request(recode(film, tmp_path, "dcmcjpls", "+il"))
        case "jls plane":
            frame = request(recode(film, tmp_path, "dcmcjpls", "+in"))
        case "rle":
            frame = request(recode(film, tmp_path, "dcmcrle"))
        case "90":
            coded = openjpeg.utils.encode_array(pixels, bits_stored=8, photometric_interpretation=1, use_mct=True)
            frame = as_j2k(film, J2K_LOSSLESS, coded, photometric="YBR_RCT")
        case _:
            frame = as_j2k(film, JPEG + "202", htj2k_streams.RGB_8, photometric="YBR_RCT")
    exact(pool.decode(frame), pixels)


def test_ybr_full_becomes_rgb(pool: DecoderPool, tmp_path: Path) -> None:
    """PS3.3 C.7.6.3.1.2, worked by hand: Y 100, Cb 90, Cr 200 is R 201, G 62 (100 + 13.08 - 51.42), B 33; grays stay grays."""
    pixels = np.full((24, 40, 3), 128, np.uint8)
    pixels[0, 0] = 100, 90, 200
    pixels[5, :, 0] = np.arange(40) * 6
    coded = recode(dataset(pixels, 8), tmp_path, "dcmcrle")
    found = pool.decode(replace(request(coded), photometric="YBR_FULL"))
    assert found[0, 0].tolist() == [201, 62, 33]
    assert (found[5] == (np.arange(40) * 6)[:, None]).all()


# ---- lossy: other people's decoders on the same codestream


def test_jpeg_baseline(pool: DecoderPool, tmp_path: Path) -> None:
    coded = recode(dataset(smooth(), 8), tmp_path, "dcmcjpeg", "+eb")
    assert coded.file_meta.TransferSyntaxUID == JPEG + "50"
    exact(pool.decode(request(coded)), plain_pixels(recode(coded, tmp_path, "dcmdjpeg")))


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_jpeg_extended(pool: DecoderPool, tmp_path: Path, bits: int) -> None:
    coded = recode(dataset(smooth(bits=bits), bits), tmp_path, "dcmcjpeg", "+ee")
    assert coded.file_meta.TransferSyntaxUID == JPEG + "51"
    found = pool.decode(request(coded))
    exact(found, plain_pixels(recode(coded, tmp_path, "dcmdjpeg")))
    assert np.corrcoef(found.ravel(), smooth(bits=bits).ravel())[0, 1] > 0.9999  # dcmcjpeg stretches the gray scale


@pytest.mark.parametrize("options", [("+s4",), ("+s2",), ("+cr",)], ids=["ybr 4:4:4", "ybr 4:2:2", "rgb"])
def test_jpeg_baseline_colour(pool: DecoderPool, tmp_path: Path, options: tuple[str, ...]) -> None:
    coded = recode(dataset(smooth(samples=3), 8), tmp_path, "dcmcjpeg", "+eb", *options)
    theirs = plain_pixels(recode(coded, tmp_path, "dcmdjpeg", "+cp"))
    exact(pool.decode(request(coded)), theirs)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_jpeg_colour_without_a_marker_is_what_the_header_says(
    pool: DecoderPool, tmp_path: Path, photometric: str
) -> None:
    coded = recode(dataset(smooth(samples=3), 8), tmp_path, "dcmcjpeg", "+eb", "+cr" if photometric == "RGB" else "+s4")
    whole = codestream(coded)
    at = whole.index(b"\xff\xee" if photometric == "RGB" else b"\xff\xe0")
    bare = whole[:at] + whole[at + 2 + int.from_bytes(whole[at + 2 : at + 4], "big") :]
    # libjpeg also takes component ids that spell RGB for a hint; most encoders number them
    for named, numbered in (
        (b"R\x11\x00G\x11\x00B\x11", b"\x01\x11\x00\x02\x11\x00\x03\x11"),
        (b"R\x00G\x00B\x00", b"\x01\x00\x02\x00\x03\x00"),
    ):
        assert (named in bare) == (photometric == "RGB")
        bare = bare.replace(named, numbered)
    assert b"Adobe" not in bare
    assert b"JFIF" not in bare
    exact(pool.decode(replace(request(coded, codestream=bare), photometric=photometric)), pool.decode(request(coded)))


@pytest.mark.parametrize(("bits", "near"), [(8, 2), (12, 5), (16, 40)])
def test_jpeg_ls_near_lossless(pool: DecoderPool, tmp_path: Path, bits: int, near: int) -> None:
    film, pixels = gray(bits, False)
    coded = recode(film, tmp_path, "dcmcjpls", "+en", "+md", str(near))
    assert coded.file_meta.TransferSyntaxUID == JPEG_LS + "1"
    found = pool.decode(request(coded))
    exact(found, plain_pixels(recode(coded, tmp_path, "dcmdjpls")))
    assert 0 < np.abs(found.astype(int) - pixels).max() <= near


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_2000_lossy(pool: DecoderPool, bits: int) -> None:
    pixels = smooth(bits=bits)
    coded = openjpeg.utils.encode_array(pixels, bits_stored=bits, compression_ratios=[10])
    found = pool.decode(as_j2k(dataset(pixels, bits), J2K, coded))
    theirs = np.asarray(Image.open(io.BytesIO(coded)))
    # Pillow stretches 12 bits to the 16 of its mode
    exact(found, theirs.astype(found.dtype) >> (16 - bits if bits > 8 else 0))
    assert 0 < np.abs(found.astype(int) - pixels).max() < 2**bits // 20


def test_jpeg_2000_lossy_colour(pool: DecoderPool) -> None:
    pixels = smooth(samples=3)
    coded = openjpeg.utils.encode_array(
        pixels, bits_stored=8, photometric_interpretation=1, use_mct=True, compression_ratios=[8]
    )
    found = pool.decode(as_j2k(dataset(pixels, 8), J2K, coded, photometric="YBR_ICT"))
    exact(found, np.asarray(Image.open(io.BytesIO(coded))))


def test_htj2k_lossy(pool: DecoderPool) -> None:
    """Irreversible wavelet: two decoders may differ by the rounding of floating point."""
    found = pool.decode(as_j2k(dataset(pattern(bits=16), 16), JPEG + "203", htj2k_streams.LOSSY_16))
    theirs = htj2k_streams.lossy_16_by_openjph()
    assert np.abs(found.astype(int) - theirs).max() <= 1
    assert 0 < np.abs(theirs.astype(int) - pattern(bits=16)).max() < 20


# ---- bits of the codestream and of the header


def test_a_container_of_16_bits_holds_12(pool: DecoderPool) -> None:
    film, pixels = gray(12, False, OPENJPH)
    exact(pool.decode(as_j2k(film, JPEG + "202", htj2k_streams.GRAY_12_IN_16)), pixels)


def test_the_sign_is_the_header_s(pool: DecoderPool) -> None:
    """Some JPEG 2000 encoders code two's complement as unsigned; the bits of a sample are the same."""
    signed = pattern(72, 90, bits=12, signed=True)
    coded = openjpeg.utils.encode_array(signed.view(np.uint16) & 0xFFF, bits_stored=12)
    exact(pool.decode(as_j2k(dataset(signed, 12), J2K_LOSSLESS, coded)), signed)
    coded = openjpeg.utils.encode_array(signed, bits_stored=12)
    unsigned = dataset(signed.view(np.uint16) & 0xFFF, 12)
    exact(pool.decode(as_j2k(unsigned, J2K_LOSSLESS, coded)), signed.view(np.uint16) & 0xFFF)


def test_eight_bits_in_a_container_of_sixteen(pool: DecoderPool, tmp_path: Path) -> None:
    pixels = pattern(72, 90, bits=8).astype(np.uint16)
    film = dataset(pixels, 8)
    for frame in (
        as_j2k(film, J2K_LOSSLESS, openjpeg.utils.encode_array(pixels.astype(np.uint8), bits_stored=8)),
        request(recode(film, tmp_path, "dcmcjpls")),
        request(recode(film, tmp_path, "dcmcjpeg", "+e1")),
        request(recode(film, tmp_path, "dcmcrle")),
    ):
        exact(pool.decode(replace(frame, bits_allocated=16)), pixels)


# ---- films of real devices


TOOLS = {JPEG + n: "dcmdjpeg" for n in ("50", "51", "57", "70")} | {
    JPEG_LS + "0": "dcmdjpls",
    JPEG_LS + "1": "dcmdjpls",
    str(RLELossless): "dcmdrle",
}
REAL = sorted((Path(__file__).resolve().parents[4] / "shared/data/dicom").glob("*.dcm"))


@pytest.mark.real_data
@pytest.mark.skipif(not REAL, reason="../shared/data/dicom is not here: no film of a real device is decoded")
def test_real_films(pool: DecoderPool, tmp_path: Path) -> None:
    """Every compressed file there against dcmtk, or gdcm where dcmtk has no decoder (JPEG 2000)."""
    compared = set()
    for path in (path for path in REAL if path.read_bytes()[128:132] == b"DICM"):
        film = pydicom.dcmread(path)
        uid = str(film.file_meta.get("TransferSyntaxUID", ""))
        if uid not in SYNTAXES or "PixelData" not in film:
            continue
        found = pool.decode(request(film))
        if uid in (J2K, J2K_LOSSLESS):
            theirs = pixel_array(film, decoding_plugin="gdcm")
        else:
            theirs = plain_pixels(recode_file(path, tmp_path, TOOLS[uid]))
        exact(found, theirs)
        compared.add(uid)
    assert len(compared) >= 5


def as_j2k(film: Dataset, uid: str, coded: bytes, **changes: Any) -> FrameRequest:
    """The uncompressed film's request with another codestream and transfer syntax."""
    return request(film, transfer_syntax=uid, codestream=coded, **changes)


def test_every_syntax_is_tested_here() -> None:
    """Those named above, so that a new one does not join without a test."""
    short = {uid.removeprefix(JPEG) for uid in SYNTAXES}
    assert short == {"50", "51", "57", "70", "80", "81", "90", "91", "201", "202", "203", "1.2.840.10008.1.2.5"}
