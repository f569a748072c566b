"""What a decoder process may do, and what is said on its socket."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jpeg_ls
import numpy as np
import openjpeg.utils
import pytest

from app.errors import ImageError
from app.imaging.dicom.decoder_protocol import (
    DAMAGED,
    DECODED,
    PHOTOMETRICS,
    SYNTAXES,
    Job,
    pack_answer,
    unpack_answer,
)
from app.imaging.dicom.decoders import DecoderPool
from app.imaging.dicom.frame import FrameRequest

ROOT = Path(__file__).resolve().parents[3]
MEMORY = 777_000_000
REQUEST = FrameRequest("1.2.840.10008.1.2.4.80", b"", 64, 50, 1, 8, 8, False, "MONOCHROME2")
JOB = Job.of(REQUEST, 8)


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    decoders = DecoderPool(1, 60, MEMORY)
    yield decoders
    decoders.close()


@pytest.mark.parametrize("uid", SYNTAXES)
@pytest.mark.parametrize("photometric", PHOTOMETRICS)
def test_a_request_survives_its_packet(uid: str, photometric: str) -> None:
    request = FrameRequest(uid, bytes(70_000), 65_535, 1, 3, 16, 12, True, photometric)
    assert Job.unpack(Job.of(request, 14).pack(65_535)) == (Job.of(request, 14), 65_535)


@pytest.mark.parametrize(
    "packet", [b"", b"CXRD", b"XXXX" + JOB.pack(1)[4:], JOB.pack(1) + b"\0", b"CXRD\x02" + JOB.pack(1)[5:]]
)
def test_a_packet_that_is_no_request(packet: bytes) -> None:
    with pytest.raises((ValueError, IndexError, struct.error)):
        Job.unpack(packet)


def test_answers_are_believed_only_as_a_whole() -> None:
    assert unpack_answer(pack_answer(DECODED, 7, 3_200), JOB, 7) == DECODED
    assert unpack_answer(pack_answer(DAMAGED, 7, 0), JOB, 7) == DAMAGED
    for packet in (
        pack_answer(DECODED, 8, 3_200),
        pack_answer(DECODED, 7, 3_201),
        pack_answer(DAMAGED, 7, 3_200),
        pack_answer(3, 7, 0),
        pack_answer(DECODED, 7, 3_200)[:-1],
        pack_answer(DECODED, 7, 3_200) + b"\0",
        b"XXXX" + pack_answer(DECODED, 7, 3_200)[4:],
    ):
        with pytest.raises(ValueError, match="answer"):
            unpack_answer(packet, JOB, 7)


def decode_one(pool: DecoderPool) -> int:
    pixels = np.zeros((64, 50), np.uint8)
    coded = FrameRequest(**(vars(REQUEST) | {"codestream": bytes(jpeg_ls.encode_array(pixels + np.uint8(1)))}))
    assert (pool.decode(coded) == 1).all()
    (child,) = pool._children
    return child.pid


def test_it_is_confined(pool: DecoderPool) -> None:
    limits = Path(f"/proc/{decode_one(pool)}/limits").read_text()
    rows = {line[:25].strip(): line[25:].split()[:2] for line in limits.splitlines()}
    assert rows["Max address space"] == [str(MEMORY)] * 2
    assert rows["Max file size"] == [str(MEMORY)] * 2
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max open files"] == ["16", "16"]


def test_it_holds_nothing_of_the_service(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secrets in its environment, and of our files only its end of the socket."""
    monkeypatch.setenv("CXR_CANARY", "secret")
    pid = decode_one(pool)
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        names = [entry.readlink().as_posix() for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except PermissionError:
        return  # not dumpable: nobody but root may look, which is the point
    assert b"CXR_CANARY" not in environment
    assert sorted({name.split(":")[0] for name in names}) == ["/dev/null", "socket"]


def test_no_core_file_however_cores_are_collected() -> None:
    """The process is not dumpable: with a pipe in core_pattern the limit alone would not help."""
    source = (
        "import ctypes, os; from app.imaging.dicom.decoder_process import confine; confine(2_000_000_000); "
        "libc = ctypes.CDLL(None); print(libc.prctl(3, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0)); "
        "value = ctypes.c_int(); libc.prctl(2, ctypes.byref(value), 0, 0, 0); print(value.value)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, timeout=60, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "1", "9"]  # not dumpable, no new privileges, SIGKILL at the parent's end


def test_a_codec_that_wants_more_than_the_limit_costs_one_error() -> None:
    """The real OpenJPEG on a sound frame of 4096 x 4096 px, which it holds in 32-bit samples, in a process that has 60 MB left for it."""
    coded = openjpeg.utils.encode_array(np.zeros((4_096, 4_096), np.uint16), bits_stored=12)
    request = FrameRequest("1.2.840.10008.1.2.4.90", coded, 4_096, 4_096, 1, 16, 12, False, "MONOCHROME2")
    small = DecoderPool(1, 60, 200_000_000)
    try:
        with pytest.raises(ImageError) as caught:
            small.decode(request)
        assert caught.value.code == "undecodable_image"
        decode_one(small)
    finally:
        small.close()
    large = DecoderPool(1, 60, 2_000_000_000)
    try:
        assert not large.decode(request).any()
    finally:
        large.close()
