"""Names in other scripts, against pydicom's decoder on the standard's own examples (files that pydicom ships)."""

from __future__ import annotations

import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from app.imaging.dicom.charsets import codec_of, decode_text
from app.imaging.dicom.part10 import read_part10
from app.imaging.dicom.values import Header
from app.imaging.header import ImageLimits

_FOLDER = Path(pydicom.__file__).parent / "data" / "charset_files"
_NAMED = (
    "chrArab", "chrFren", "chrFrenMulti", "chrGerm", "chrGreek", "chrH31", "chrH32", "chrHbrw", "chrI2", "chrJapMulti",
    "chrJapMultiExplicitIR6", "chrKoreanMulti", "chrRuss", "chrX1", "chrX2",
)  # fmt: skip


@pytest.mark.parametrize("name", _NAMED)
def test_names_as_pydicom_reads_them(name: str) -> None:
    path = get_testdata_file(f"{name}.dcm") or str(_FOLDER / f"{name}.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = str(pydicom.dcmread(path).PatientName)
    header = Header(read_part10(memoryview(Path(path).read_bytes()), ImageLimits(1, 1)))
    assert header.text(0x00100010).rstrip("=") == expected  # pydicom drops an empty last group
    assert "�" not in expected


def test_a_korean_and_a_japanese_name_letter_by_letter() -> None:
    korean = (
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"  # PS3.5 I.2
    )
    assert decode_text(korean, codec_of(("", "ISO 2022 IR 149"))) == "Hong^Gildong=洪^吉洞=홍^길동"
    japanese = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"  # PS3.5 H.3.1
    assert decode_text(japanese, codec_of(("", "ISO 2022 IR 87"))) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert decode_text("Wang^XiaoDong=王^小东".encode("gb18030"), codec_of(("GB18030",))) == "Wang^XiaoDong=王^小东"


def test_the_first_set_returns_after_a_delimiter() -> None:
    """PS3.5 section 6.1.2.5.3: Latin, Cyrillic by escape, and Latin again after the caret."""
    codec = codec_of(("ISO 2022 IR 100", "ISO 2022 IR 144"))
    assert decode_text(b"\xe4\x1b-L\xbb\xe4^\xe4", codec) == "äЛф^ä"


def test_what_cannot_be_decoded_is_marked_and_not_lost() -> None:
    assert decode_text(b"M\xfcller", codec_of(())) == "M�ller"
    assert decode_text(b"M\xfcller", codec_of(("ZZ NO SUCH SET",))) == "M�ller"
    assert decode_text(b"M\xfcller", codec_of(("ISO_IR 100",))) == "Müller"
    assert decode_text(b"a\x00b\r\n c \x7f", "ascii") == "ab c"


@given(st.binary(max_size=80), st.lists(st.sampled_from(["", "ISO 2022 IR 87", "ISO_IR 192", "GBK", "x"]), max_size=3))
def test_no_bytes_can_make_it_fail(value: bytes, terms: list[str]) -> None:
    for data in (value, value.replace(b"\xff", b"\x1b"), b"\x1b$B" + value, b"\x1b$)C" + value):
        text = decode_text(data, codec_of(tuple(terms)))
        assert "\x1b" not in text
        assert text.isprintable()
