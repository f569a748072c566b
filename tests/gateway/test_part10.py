"""The frame around a data set: written as pydicom reads it, read within bounds, and never wrong about where the data set begins."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from app.errors import ImageError
from app.gateway.part10 import as_file, is_uid, read_meta
from tests.support.dicom_films import dicom_film

CLASS, INSTANCE = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.45"
UIDS = st.from_regex(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){1,5}", fullmatch=True)
EMPTY = as_file(CLASS, INSTANCE, ExplicitVRLittleEndian, b"")


@given(sop_class=UIDS, instance=UIDS, syntax=UIDS, body=st.binary(max_size=50))
def test_what_is_written_is_read_again(sop_class: str, instance: str, syntax: str, body: bytes) -> None:
    film = as_file(sop_class, instance, syntax, body)
    meta = read_meta(film)
    assert (meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid) == (sop_class, instance, syntax)
    assert film.endswith(body)
    assert len(film) - len(body) == 144 + struct.unpack_from("<I", film, 140)[0]  # group length, PS3.10 section 7.1


def test_pydicom_reads_the_same() -> None:
    whole = dicom_film(1, size=(160, 140))
    body = whole[144 + struct.unpack_from("<I", whole, 140)[0] :]
    meta = read_meta(whole)
    again = dcmread(io.BytesIO(as_file(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, body)))
    assert again == dcmread(io.BytesIO(whole))
    assert again.file_meta.MediaStorageSOPInstanceUID == again.SOPInstanceUID
    assert again.file_meta.FileMetaInformationVersion == b"\x00\x01"


@pytest.mark.parametrize("bad", ["", "1.2.x", "1..2", ".1", "1.", "1.2 ", "1\n", "1." + "2" * 64, "\u0661.2"])
def test_what_is_no_uid(bad: str) -> None:
    assert not is_uid(bad)
    for uids in ((bad, INSTANCE, CLASS), (CLASS, bad, CLASS), (CLASS, INSTANCE, bad)):
        with pytest.raises(ImageError, match="malformed_dicom"):
            as_file(*uids, b"")


@pytest.mark.parametrize(
    "data",
    [b"", bytes(132), EMPTY[:140], EMPTY[:160], EMPTY[:-80], EMPTY.replace(INSTANCE.encode(), b"1.2.3.4x")],
    ids=["empty", "no prefix", "no group", "cut early", "cut late", "bad uid"],
)
def test_a_meta_header_that_is_not_whole(data: bytes) -> None:
    with pytest.raises(ImageError, match="malformed_dicom"):
        read_meta(data)


@given(st.binary(max_size=400), st.integers(0, len(EMPTY)))
def test_any_bytes_are_read_or_refused(tail: bytes, cut: int) -> None:
    with suppress(ImageError):
        assert is_uid(read_meta(EMPTY[:cut] + tail).sop_instance_uid)


def test_nothing_behind_64_kilobytes_is_looked_at() -> None:
    private = struct.pack("<HH2sHI", 0x0002, 0x0102, b"OB", 0, 70_000) + bytes(70_000)
    with pytest.raises(ImageError, match="malformed_dicom"):
        read_meta(EMPTY[:132] + private + EMPTY[132:])
