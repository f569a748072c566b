"""A codestream's own header against the DICOM header, before any codec."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jpeg_ls
import openjpeg.utils
import pytest
import simplejpeg
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import ImageError
from app.imaging.dicom.codestreams import Codestream, check_codestream
from app.imaging.dicom.frame import FrameRequest
from tests.support import htj2k_streams
from tests.support.dicom_frames import pattern

JPEG = "1.2.840.10008.1.2.4."
ROWS, COLUMNS = 72, 90


def frame(uid: str, codestream: bytes, **changes: Any) -> FrameRequest:
    plain = FrameRequest(uid, codestream, ROWS, COLUMNS, 1, 8, 8, False, "MONOCHROME2")
    return replace(plain, **changes)


EIGHT = pattern(ROWS, COLUMNS, bits=8)
BASELINE = frame(JPEG + "50", simplejpeg.encode_jpeg(EIGHT[..., None].copy(), colorspace="GRAY"))
JPEG_LS = frame(JPEG + "80", bytes(jpeg_ls.encode_array(EIGHT)))
J2K = frame(JPEG + "90", openjpeg.utils.encode_array(EIGHT, bits_stored=8))
HTJ2K = frame(JPEG + "202", htj2k_streams.GRAY_8, rows=htj2k_streams.ROWS, columns=htj2k_streams.COLUMNS)
RLE_BODY = b"\x7f" + EIGHT.tobytes()[:128]
RLE = frame("1.2.840.10008.1.2.5", (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + RLE_BODY)
SOF3 = BASELINE.codestream.replace(b"\xff\xc0", b"\xff\xc3", 1)
SOUND = {"jpeg": BASELINE, "jpeg-ls": JPEG_LS, "j2k": J2K, "htj2k": HTJ2K, "rle": RLE}


def refusal(request: FrameRequest) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        check_codestream(request)
    return caught.value.code, caught.value.detail


@pytest.mark.parametrize("request_", SOUND.values(), ids=SOUND)
def test_sound(request_: FrameRequest) -> None:
    assert check_codestream(request_) == Codestream(request_.columns, request_.rows, 1, 8)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-ls", "j2k", "htj2k"])
@pytest.mark.parametrize("changes", [{"rows": 71}, {"columns": 91}, {"rows": 90, "columns": 72}, {"samples": 3}])
def test_another_picture_than_the_header_describes(name: str, changes: dict[str, Any]) -> None:
    if "samples" in changes:
        changes = changes | {"photometric": "RGB"}
    code, detail = refusal(replace(SOUND[name], **changes))
    assert code == "undecodable_image"
    assert "the header says" in detail


def test_more_bits_than_the_header_has_room_for() -> None:
    sixteen = openjpeg.utils.encode_array(pattern(ROWS, COLUMNS, bits=16), bits_stored=16)
    assert "room for 8" in refusal(replace(J2K, codestream=sixteen))[1]
    assert check_codestream(replace(J2K, codestream=sixteen, bits_allocated=16)).precision == 16


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"transfer_syntax": JPEG + "112"}, "unsupported_transfer_syntax"),  # JPEG XL
        ({"transfer_syntax": "1.2.840.10008.1.2.1"}, "unsupported_transfer_syntax"),
        ({"samples": 4}, "unsupported_pixel_format"),
        ({"samples": 3, "photometric": "RGB", "bits_allocated": 16}, "unsupported_pixel_format"),
        ({"samples": 3, "photometric": "RGB", "signed": True}, "unsupported_pixel_format"),
        ({"samples": 3}, "unsupported_pixel_format"),
        ({"photometric": "RGB"}, "unsupported_pixel_format"),
        ({"photometric": "PALETTE COLOR"}, "unsupported_pixel_format"),
        ({"photometric": "YBR_PARTIAL_420", "samples": 3}, "unsupported_pixel_format"),
        ({"bits_allocated": 32}, "unsupported_pixel_format"),
        ({"bits_stored": 9}, "unsupported_pixel_format"),
        ({"bits_stored": 0}, "unsupported_pixel_format"),
        ({"rows": 0}, "undecodable_image"),
        ({"columns": 65_536}, "undecodable_image"),
    ],
    ids=str,
)
def test_what_no_decoder_is_asked(changes: dict[str, Any], code: str) -> None:
    assert refusal(replace(BASELINE, **changes))[0] == code


def edited(request: FrameRequest, old: bytes, new: bytes) -> FrameRequest:
    assert request.codestream.count(old) >= 1
    return replace(request, codestream=request.codestream.replace(old, new, 1))


SIZ = J2K.codestream[:43]


def siz(at: int, value: int) -> FrameRequest:
    """J2K with the 32-bit number at byte `at` of the codestream replaced."""
    return replace(J2K, codestream=SIZ[:at] + value.to_bytes(4, "big") + J2K.codestream[at + 4 :])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (edited(BASELINE, b"\xff\xd8", b"\xff\xd7"), "start-of-image"),
        (replace(BASELINE, codestream=b""), "start-of-image"),
        (edited(BASELINE, b"\xff\xc0", b"\xff\xc1"), "coding process"),
        (edited(BASELINE, b"\xff\xc0", b"\xff\xc2"), "coding process"),  # progressive
        (edited(BASELINE, b"\xff\xc0\x00\x0b\x08", b"\xff\xc0\x00\x0b\x0c"), "12 bits"),
        (edited(BASELINE, b"\xff\xc0\x00\x0b", b"\xff\xc0\x00\x0a"), "frame header"),
        (edited(BASELINE, b"\xff\xc0\x00\x0b", b"\xff\xc0\xff\xff"), "longer than"),
        (edited(BASELINE, b"\xff\xc0\x00\x0b", b"\xff\xc0\x00\x01"), "longer than"),
        (edited(BASELINE, b"\x01\x01\x11\x00", b"\x01\x01\x51\x00"), "sampling"),
        (edited(BASELINE, b"\x01\x01\x11\x00", b"\x01\x01\x10\x00"), "sampling"),
        (edited(BASELINE, b"\xff\xc0", b"\xff\xe3"), "no frame header"),
        (replace(BASELINE, codestream=BASELINE.codestream[:-2]), "end-of-image"),
        (replace(BASELINE, codestream=b"\xff\xd8" + b"\xff\xe1\x00\x02" * 2_000), "marker segments"),
        (replace(BASELINE, codestream=b"\xff\xd8" + b"\xff" * 50_000), "missing"),
        (frame(JPEG + "70", SOF3), "predictor"),  # the Ss byte of a DCT scan is 0
        (edited(J2K, b"\xff\x4f", b"\xff\x4e"), "SOC"),
        (replace(J2K, codestream=J2K.codestream[:43]), "SOC"),
        (siz(8, 0), "no area"),
        (siz(24, 0), "no area"),
        (siz(8, 0xFFFFFFFF), "tiles"),
        (siz(32, 91), "first tile"),
        (edited(J2K, b"\x00\x01\x07\x01\x01", b"\x00\x02\x07\x01\x01"), "SIZ"),
        (edited(J2K, b"\x00\x01\x07\x01\x01", b"\x00\x01\x07\x02\x01"), "differ"),
        (replace(RLE, codestream=RLE.codestream[:63]), "shorter"),
        (edited(RLE, b"\x01\0\0\0", b"\x02\0\0\0"), "2 RLE segments"),
        (edited(RLE, b"\x40\0\0\0", b"\x3f\0\0\0"), "follow"),
        (edited(RLE, b"\x40\0\0\0", b"\xff\xff\xff\xff"), "follow"),
        (replace(RLE, codestream=RLE.codestream[:65]), "too short"),
        (replace(RLE, bits_allocated=16), "the header needs 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_headers(request_: FrameRequest, said: str) -> None:
    code, detail = refusal(request_)
    assert code == "undecodable_image"
    assert said in detail


@given(
    st.sampled_from(sorted(SOUND)),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
@example("j2k", [], 0)
def test_nothing_but_coded_errors(name: str, flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(SOUND[name].codestream)
    for at, value in flips:
        data[at % len(data)] = value
    try:
        found = check_codestream(replace(SOUND[name], codestream=bytes(data[: len(data) - cut])))
    except ImageError as error:
        said: Any = error.code
    else:
        said = (found.rows, found.columns, found.components)
    assert said in ("undecodable_image", (SOUND[name].rows, SOUND[name].columns, 1))
