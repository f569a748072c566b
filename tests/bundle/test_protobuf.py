from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.protobuf import (
    Kind,
    RefusedField,
    Slot,
    Table,
    WireError,
    WireReader,
    count_numbers,
    read_varint,
    read_varints,
    signed,
)
from tests.support.attacks_on_wire import field, varint

TABLE: Table = {
    1: Slot("number", Kind.VARINT),
    2: Slot("text", Kind.BYTES),
    3: Slot("numbers", Kind.VARINT, repeated=True),
    4: Slot("floats", Kind.FIXED32, repeated=True),
    5: Slot("never", Kind.BYTES, repeated=True, refused="custom_operator"),
    6: Slot("double", Kind.FIXED64),
}


def parse(data: bytes) -> dict[str, list[int | memoryview]]:
    return WireReader(100).parse(memoryview(data), TABLE)


@given(st.integers(0, 2**64 - 1))
def test_a_varint_comes_back(value: int) -> None:
    data = varint(value)
    assert read_varint(memoryview(data + b"\xff"), 0) == (value, len(data))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_packed_and_single_numbers_are_the_same(values: list[int]) -> None:
    packed = b"".join(varint(value % 2**64) for value in values)
    single = parse(b"".join(b"\x18" + varint(value % 2**64) for value in values)).get("numbers", [])
    assert read_varints(single) == values
    assert read_varints([memoryview(packed)]) == values
    assert count_numbers([memoryview(packed)], Kind.VARINT) == count_numbers(single, Kind.VARINT) == len(values)


def test_a_message_is_read_by_its_table() -> None:
    found = parse(b"\x08\x96\x01" + field(2, b"abc") + b"\x31" + b"\x01" + b"\0" * 7 + b"\x25\0\0\x80\x3f")
    assert found == {"number": [150], "text": [memoryview(b"abc")], "double": [1], "floats": [0x3F800000]}


def test_numbers_are_signed_by_twos_complement() -> None:
    assert [signed(2**64 - 1), signed(2**63), signed(2**63 - 1)] == [-1, -(2**63), 2**63 - 1]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x08", "ends inside a number"),
        (b"\x08\x80", "ends inside a number"),
        (b"\x08\x80\x00", "shortest form"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "64 bits"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "64 bits"),
        (b"\x12\x05abcd", "4 are left"),
        (b"\x25\0\0", "2 are left"),
        (b"\x3a\x00", "unknown field 7"),
        (b"\x00\x00", "unknown field 0"),
        (b"\x0b", "unknown field 1 of wire type 3"),
        (b"\x0e", "wire type 6"),
        (b"\x0a\x00", "wire type 2"),
        (b"\x10\x00", "wire type 0"),
        (b"\x08\x01\x08\x02", "stands twice"),
    ],
)
def test_a_damaged_message_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        parse(data)


def test_a_refused_field_carries_its_code() -> None:
    with pytest.raises(RefusedField) as refused:
        parse(field(5, b""))
    assert (refused.value.code, refused.value.name) == ("custom_operator", "never")


def test_the_budget_counts_over_all_messages() -> None:
    reader = WireReader(3)
    reader.parse(memoryview(b"\x18\x01\x18\x01"), TABLE)
    reader.parse(memoryview(b"\x18\x01"), TABLE)
    with pytest.raises(WireError, match="too many fields"):
        reader.parse(memoryview(b"\x18\x01"), TABLE)


@pytest.mark.parametrize(
    ("kind", "run"), [(Kind.FIXED32, b"\0" * 5), (Kind.FIXED64, b"\0" * 4), (Kind.VARINT, b"\x80")]
)
def test_a_packed_run_must_hold_whole_numbers(kind: Kind, run: bytes) -> None:
    with pytest.raises(WireError):
        count_numbers([memoryview(run)], kind)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = parse(data)
    except (WireError, RefusedField):
        return
    assert set(found) <= {slot.name for slot in TABLE.values()}
