"""Values of a walked data set: numbers and words, each checked against what its element may hold; text decoded, never raising.

Source: PS3.5 section 6.2 (value representations). Nothing of a value goes into an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from app.imaging.dicom.charsets import codec_of, decode_text
from app.imaging.dicom.walk import DataSet, Elements, malformed

MAX_TEXT_BYTES = 4_096
MAX_NUMBERS = 4_096
_CHARACTER_SET = 0x00080005
_DECIMAL = re.compile(rb"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_INTEGER = re.compile(rb"[+-]?\d{1,12}")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LARGEST = 1e9
"""No center, width, slope or intercept of a film is larger; beyond it float arithmetic could overflow."""


class Header:
    """Read access to the elements of a data set or of one sequence item."""

    def __init__(self, source: DataSet, elements: Elements | None = None, codec: str | None = None) -> None:
        self._source = source
        self._elements = source.elements if elements is None else elements
        self._codec = codec_of(self.words(_CHARACTER_SET)) if codec is None else codec

    def __contains__(self, tag: int) -> bool:
        return tag in self._elements

    @property
    def little(self) -> bool:
        """Byte order of binary values."""
        return self._source.syntax.little

    def vr(self, tag: int) -> str:
        """As it stands in the file; empty in implicit VR."""
        return self._elements[tag].vr

    def raw(self, tag: int) -> memoryview:
        """The bytes of a value; none where the element is absent."""
        element = self._elements.get(tag)
        return self._source.data[element.start : element.end] if element else memoryview(b"")

    def items(self, tag: int) -> tuple[Header, ...]:
        """The items of one of `READ_SEQUENCES`.

        Raises:
            ImageError: `malformed_dicom` where the element is no sequence.
        """
        if tag not in self._elements:
            return ()
        element = self._elements[tag]
        if element.vr not in ("SQ", "") and not element.items:
            raise malformed("an element that must be a sequence is none")
        return tuple(Header(self._source, item, self._codec) for item in element.items)

    # descriptive values: whatever stands there, as text

    def text(self, tag: int) -> str:
        """The first `MAX_TEXT_BYTES` of a value as Unicode without padding, empty where absent."""
        return decode_text(self.raw(tag)[:MAX_TEXT_BYTES].tobytes().rstrip(b"\x00 "), self._codec)

    def words(self, tag: int) -> tuple[str, ...]:
        """The values of a CS, upper case."""
        text = self.raw(tag)[:MAX_TEXT_BYTES].tobytes().decode("ascii", "replace").strip("\x00 ")
        return tuple(word.strip(" \x00").upper() for word in text.split("\\")) if text else ()

    def word(self, tag: int) -> str:
        return (*self.words(tag), "")[0]

    def uid(self, tag: int) -> str:
        """A UID, empty where it is absent or not well formed (PS3.5 section 9.1; leading zeros are let pass)."""
        text = self.raw(tag)[:66].tobytes().decode("ascii", "replace").strip("\x00 ")
        return text if len(text) <= 64 and _UID.fullmatch(text) else ""

    # values that arithmetic depends on: right or refused

    def us(self, tag: int, what: str) -> int | None:
        """The single value of a US; None where the element is absent.

        Raises:
            ImageError: `malformed_dicom` with `what`.
        """
        if tag not in self._elements:
            return None
        value = self.raw(tag)
        if self.vr(tag) not in ("US", "") or len(value) != 2:
            raise malformed(f"{what} is not one unsigned number")
        return self._integer(value, signed=False)

    def shorts(self, tag: int, what: str, *, signed: bool) -> tuple[int, ...]:
        """The values of a US or SS. The file's own VR decides about the sign, `signed` where it has none.

        Raises:
            ImageError: `malformed_dicom` with `what`.
        """
        value = self.raw(tag)
        vr = self.vr(tag) if tag in self._elements else ""
        if vr not in ("US", "SS", "UN", "") or len(value) % 2 or len(value) > 2 * MAX_NUMBERS:
            raise malformed(f"{what} has a wrong form")
        signed = vr == "SS" or (vr != "US" and signed)
        return tuple(self._integer(value[at : at + 2], signed=signed) for at in range(0, len(value), 2))

    def integer(self, tag: int, what: str) -> int | None:
        """The single value of an IS; None where absent or empty.

        Raises:
            ImageError: `malformed_dicom` with `what`.
        """
        text = self._number_text(tag, ("IS", ""), what)
        if not text:
            return None
        if not _INTEGER.fullmatch(text):
            raise malformed(f"{what} is not one whole number")
        return int(text)

    def decimals(self, tag: int, what: str) -> tuple[float, ...]:
        """The values of a DS; none where absent or empty.

        Raises:
            ImageError: `malformed_dicom` with `what`.
        """
        text = self._number_text(tag, ("DS", "UN", ""), what)
        return tuple(_decimal(part, what) for part in text.split(b"\\")) if text else ()

    def _number_text(self, tag: int, vrs: Iterable[str], what: str) -> bytes:
        if tag not in self._elements:
            return b""
        value = self.raw(tag)
        if self.vr(tag) not in vrs or len(value) > MAX_TEXT_BYTES:
            raise malformed(f"{what} has a wrong form")
        return value.tobytes().strip(b" \x00")

    def _integer(self, value: memoryview, *, signed: bool) -> int:
        return int.from_bytes(value, "little" if self._source.syntax.little else "big", signed=signed)


def _decimal(text: bytes, what: str) -> float:
    text = text.strip()
    number = float(text) if len(text) <= 64 and _DECIMAL.fullmatch(text) else math.nan
    if not abs(number) <= _LARGEST:  # also not a number
        raise malformed(f"{what} is not a number in range")
    return number
