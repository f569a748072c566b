from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records.chain import Event, canonical, sha256_hex, timestamp

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
EVENT = Event("c" * 16, 7, "2026-11-20T10:00:00.000001Z", "predict", "a" * 64, None, "genesis")


def test_canonical_text_is_sorted_compact_and_ascii() -> None:
    assert canonical({"b": [1, 2.5, None], "a": "é\u2028", "c": {}}) == rb'{"a":"\u00e9\u2028","b":[1,2.5,null],"c":{}}'


@given(JSON)
def test_canonical_text_is_a_fixed_point(value: object) -> None:
    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_bit_by_bit(value: float) -> None:
    assert json.loads(canonical(value)).hex() == value.hex()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", {1, 2}, object()])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical({"x": value})


def test_mac_input_is_format_version_1() -> None:
    """Pinned: databases hold MACs over exactly these bytes."""
    assert EVENT.mac_input("k1") == (
        b'[1,"k1","cccccccccccccccc",7,"2026-11-20T10:00:00.000001Z","predict","' + b"a" * 64 + b'",null,"genesis"]'
    )


@given(st.sampled_from([f.name for f in dataclasses.fields(Event)]), st.text(max_size=5))
def test_every_field_reaches_the_mac(name: str, text: str) -> None:
    value: Any = 8 if name == "seq" else text
    changed = dataclasses.replace(EVENT, **{name: value})
    assert changed.mac_input("k1") != EVENT.mac_input("k1")
    assert EVENT.mac_input("k2") != EVENT.mac_input("k1")


def test_neighbouring_fields_cannot_be_shifted() -> None:
    one = dataclasses.replace(EVENT, kind='a","b', key_id="c")
    two = dataclasses.replace(EVENT, kind="a", key_id='b","c')
    assert one.mac_input("k") != two.mac_input("k")


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(9999, 1, 1)),  # noqa: DTZ001 - hypothesis adds the zone
    st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=300)),
)
def test_timestamps_sort_as_text(moment: datetime, later: timedelta) -> None:
    first, second = timestamp(moment.replace(tzinfo=UTC)), timestamp((moment + later).replace(tzinfo=UTC))
    assert first < second
    assert len(first) == len(second) == 27


def test_timestamps_are_utc() -> None:
    local = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(local) == "2025-12-31T23:30:00.000000Z"


def test_sha256_of_nothing() -> None:
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
