"""The hostile corpus: one code per file, in bounded time and memory, and never a word of the file in a message."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.errors import CxrError, ImageError
from app.imaging.decode import ImageLimits, decode
from app.imaging.dicom import walk as walk_module
from tests.support.dicom_attacks import HostileDicom, hostile_dicom
from tests.support.dicom_bytes import DEFLATED, IMPLICIT, LITTLE, RLE, compressed_film, element, film, item, nested
from tests.support.dicom_films import CANARY, dicom_film
from tests.support.image_bytes import value_or_refusal

LIMITS = ImageLimits(min_px=128, max_px=4_096)


@pytest.mark.parametrize("case", hostile_dicom(), ids=lambda case: case.name)
def test_hostile_dicom_is_refused_by_its_code(case: HostileDicom) -> None:
    with pytest.raises(CxrError) as refusal:
        decode(case.data, LIMITS)
    assert (refusal.value.status, refusal.value.code) == (case.status, case.code)
    assert refusal.value.detail
    assert CANARY not in f"{refusal.value} {refusal.value.detail} {refusal.value.facts}"


def test_the_corpus_is_as_large_as_promised() -> None:
    cases = hostile_dicom()
    assert len({case.name for case in cases}) == len(cases) >= 200
    assert max(len(case.data) for case in cases) <= 5_000_000


@pytest.mark.parametrize("syntax", [LITTLE, IMPLICIT, DEFLATED])
def test_every_cut_of_a_film_is_refused(syntax: str) -> None:
    """No prefix of a film may pass for the film."""
    whole = film(syntax)
    for cut in (*range(min(700, len(whole))), *range(700, len(whole), 997), *range(len(whole) - 20, len(whole))):
        with pytest.raises(ImageError) as refusal:
            decode(whole[:cut], LIMITS)
        # between two elements the rest may have been left out as well as cut off
        assert refusal.value.code in {"unsupported_format", "truncated_image", "malformed_dicom", "dicom_without_image"}


def test_every_cut_of_fragments_is_refused() -> None:
    whole = compressed_film(bytes(100), syntax=RLE)
    start = whole.index(b"\xe0\x7f\x10\x00") + 4
    for cut in range(start, len(whole)):
        with pytest.raises(ImageError) as refusal:
            decode(whole[:cut], LIMITS)
        assert refusal.value.code == "truncated_image"


@pytest.mark.parametrize("flaw", range(132, 700))
def test_every_byte_of_a_header_set_to_ff(flaw: int) -> None:
    data = bytearray(film())
    assert len(data) > 700
    data[flaw] = 0xFF
    result = value_or_refusal(lambda: decode(data, LIMITS))
    assert isinstance(result, CxrError) or result.pixels.shape == (128, 128)


def test_depth_within_the_limit_is_walked() -> None:
    lead = film(t00080018=None, t00080060=None)
    at = lead.index(b"\x28\x00\x02\x00")
    for undefined in (False, True):
        sound = lead[:at] + nested(walk_module.MAX_DEPTH, undefined=undefined) + lead[at:]
        assert decode(sound, LIMITS).pixels.shape == (128, 128)


def test_elements_within_the_limit_are_walked() -> None:
    count = walk_module.MAX_ELEMENTS - 12
    private = b"".join(element(0x00090000 + n, "LO", b"") for n in range(1, count))
    data = film()
    at = data.index(b"\x28\x00\x02\x00")
    assert decode(data[:at] + private + data[at:], LIMITS).pixels.shape == (128, 128)
    more = private + element(0x00090000 + count, "LO", b"") + element(0x00090001 + count, "LO", b"")
    with pytest.raises(ImageError, match="malformed_dicom"):
        decode(data[:at] + more + data[at:], LIMITS)


def test_limits_of_bytes() -> None:
    whole = dicom_film(1)
    assert decode(whole, ImageLimits(128, 4_096, dicom_max_bytes=len(whole))).format == "dicom"
    with pytest.raises(ImageError) as refusal:
        decode(whole, ImageLimits(128, 4_096, dicom_max_bytes=len(whole) - 1))
    assert (refusal.value.code, refusal.value.facts["limit"]) == ("payload_too_large", len(whole) - 1)
    packed = film(DEFLATED)
    assert len(packed) < 32_768
    with pytest.raises(ImageError, match="payload_too_large"):
        decode(packed, ImageLimits(128, 4_096, dicom_max_bytes=32_768))
    assert decode(packed, ImageLimits(128, 4_096, dicom_max_bytes=40_000)).format == "dicom"


def test_sides_have_dicom_s_own_limit() -> None:
    data = dicom_film(1, size=(300, 260))
    assert decode(data, ImageLimits(128, 256, dicom_max_px=300)).pixels.shape == (300, 260)
    with pytest.raises(ImageError, match="image_too_large"):
        decode(data, ImageLimits(128, 4_096, dicom_max_px=299))


def test_an_icon_s_fragments_are_not_the_film_s() -> None:
    icon = element(0x7FE00010, "OB", item(b"") + item(b"\1\2"), length=0xFFFFFFFF) + bytes.fromhex("feffdde000000000")
    sequence = element(0x00880200, "SQ", item(icon))
    late = element(0x7FE11001, "SQ", item(icon))
    data = compressed_film(bytes(64), syntax=RLE)
    at = data.index(b"\xe0\x7f\x10\x00")

    class Decoder:
        def decode(self, request: object) -> object:
            assert request.codestream == bytes(64)  # type: ignore[attr-defined]  # a FrameRequest
            raise ImageError("undecodable_image", what="seen")

    with pytest.raises(ImageError, match="seen"):
        decode(data[:at] + sequence + data[at:] + late, LIMITS, Decoder())  # type: ignore[arg-type]  # only decode() is used


_RSS_SCRIPT = """
import sys, time
from app.errors import CxrError
from app.imaging.decode import ImageLimits, decode, limit_threads
limit_threads()
files = sys.stdin.buffer.read()
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
idle, at = peak(), 0
while at < len(files):
    size = int.from_bytes(files[at:at + 8], "big")
    try:
        decode(memoryview(files)[at + 8:at + 8 + size], ImageLimits(128, 4096))
    except CxrError:
        pass
    at += 8 + size
print(idle // 1024, peak() // 1024)
"""


def test_the_corpus_decodes_in_bounded_memory() -> None:
    files = b"".join(len(case.data).to_bytes(8, "big") + case.data for case in hostile_dicom())
    done = subprocess.run(
        [sys.executable, "-c", _RSS_SCRIPT], input=files, capture_output=True, check=True, timeout=120
    )
    idle, peak = map(int, done.stdout.split())
    print(f"hostile DICOM corpus: idle {idle} MiB, peak {peak} MiB")
    assert peak - idle <= 150  # the bomb of 1 GB is inflated to the 64 MB it may have
