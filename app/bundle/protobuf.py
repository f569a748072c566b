"""A strict reader of the protobuf wire format, driven by tables. It never copies payloads and never trusts a length.

Stricter than the format on purpose, so that no other reader can understand the same bytes differently:
varints must be in their shortest form; a singular field may stand once; field numbers outside the table, groups and wrong wire
types are errors. Depth is bounded by the caller: a nested message is handed back as bytes, and only the caller's own fixed
sequence of tables reads further. The number of fields is bounded by one budget for the whole file.

Source: protobuf.dev, "Encoding" (tag = number << 3 | wire type; varint of at most ten groups of seven bits).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import numpy as np

MAX_TAG = (1 << 29) - 1
_FIXED_BYTES = {1: 8, 5: 4}  # wire type -> length
_GROUPS = (3, 4)  # the deprecated start and end of a group

Value: TypeAlias = int | memoryview
Message: TypeAlias = dict[str, list[Value]]


class WireError(ValueError):
    """The bytes are not the message that the table describes."""


class Kind(Enum):
    """How a field is written: its wire type, and whether repeated numbers may be packed into one length-delimited field."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2  # strings, bytes and nested messages
    FIXED32 = 5


@dataclass(frozen=True)
class Slot:
    """One row of a table.

    text: must be UTF-8. refused: the code of the error for a field that must not be there at all.
    """

    name: str
    kind: Kind
    repeated: bool = False
    text: bool = False
    refused: str | None = None


Table: TypeAlias = Mapping[int, Slot]


class RefusedField(Exception):  # noqa: N818 (not an error of the wire: a well-formed field that is not accepted)
    """A field that a table refuses. Carries the code of the error and the field's name."""

    def __init__(self, code: str, name: str) -> None:
        self.code = code
        self.name = name
        super().__init__(f"{code}: {name}")


class WireReader:
    """Parses messages of one file; counts their fields against one budget.

    Args:
        max_fields: most fields that all messages together may have.
    """

    def __init__(self, max_fields: int) -> None:
        self._left = max_fields

    def parse(self, data: memoryview, table: Table) -> Message:
        """The fields of one message by name, in order. Numbers as int (unsigned 64 bit), all else as slices of `data`.

        Raises:
            WireError: truncated, over-long, unknown, doubled or wrongly typed fields, text that is not UTF-8, or the budget is used up.
            RefusedField: a field that the table refuses.
        """
        found: Message = {}
        at = 0
        while at < len(data):
            self._left -= 1
            if self._left < 0:
                raise WireError("too many fields")
            tag, at = read_varint(data, at)
            number, wire = tag >> 3, tag & 7
            slot = table.get(number)
            if slot is None or number > MAX_TAG or wire in _GROUPS:
                raise WireError(f"unknown field {number} of wire type {wire}")
            value, at = _read_value(data, at, wire)
            if slot.refused is not None:
                raise RefusedField(slot.refused, slot.name)
            packed = wire == Kind.BYTES.value and slot.repeated
            if wire != slot.kind.value and not packed:
                raise WireError(f"field {slot.name} has wire type {wire}")
            if slot.text and isinstance(value, memoryview):
                _check_text(value, slot.name)
            values = found.setdefault(slot.name, [])
            if values and not slot.repeated:
                raise WireError(f"field {slot.name} stands twice")
            values.append(value)
        return found


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned varint at offset `at`, and the offset after it. Shortest form only, below 2^64.

    Raises:
        WireError: truncated, longer than ten bytes, above 64 bits, or not in shortest form.
    """
    value = 0
    for count in range(10):
        if at >= len(data):
            raise WireError("ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if byte == 0 and count > 0:
                raise WireError("a number is not in its shortest form")
            if value >= 1 << 64:
                break
            return value, at
    raise WireError("a number has more than 64 bits")


def read_varints(values: list[Value]) -> list[int]:
    """All numbers of a repeated varint field, packed or not, as signed 64 bit integers.

    Raises:
        WireError: a packed run that is not a sequence of varints.
    """
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(signed(value))
            continue
        at = 0
        while at < len(value):
            number, at = read_varint(value, at)
            numbers.append(signed(number))
    return numbers


def count_numbers(values: list[Value], kind: Kind) -> int:
    """How many numbers a repeated field holds, packed or not, without decoding them.

    Raises:
        WireError: a packed run whose length does not fit its kind.
    """
    total = 0
    for value in values:
        if isinstance(value, int):
            total += 1
        elif kind is Kind.VARINT:
            run = np.frombuffer(value, dtype=np.uint8)
            if len(run) and run[-1] >= 0x80:
                raise WireError("a packed run ends inside a number")
            total += int(np.count_nonzero(run < 0x80))
        else:
            size = _FIXED_BYTES[kind.value]
            if len(value) % size:
                raise WireError(f"a packed run of {len(value)} bytes does not hold whole numbers of {size}")
            total += len(value) // size
    return total


def signed(value: int) -> int:
    """Two's complement of an unsigned 64 bit number, as int64 and int32 fields are written."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _check_text(value: memoryview, name: str) -> None:
    try:
        str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"field {name} is not UTF-8") from error


def _read_value(data: memoryview, at: int, wire: int) -> tuple[Value, int]:
    if wire == Kind.VARINT.value:
        return read_varint(data, at)
    if wire == Kind.BYTES.value:
        length, at = read_varint(data, at)
    elif wire in _FIXED_BYTES:
        length = _FIXED_BYTES[wire]
    else:
        raise WireError(f"wire type {wire}")
    if length > len(data) - at:
        raise WireError(f"a field of {length} bytes where {len(data) - at} are left")
    piece = data[at : at + length]
    return (piece if wire == Kind.BYTES.value else int.from_bytes(piece, "little")), at + length
