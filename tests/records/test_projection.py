from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records.projection import PROJECTED, event_columns, own_columns, sections, storable
from app.records.tables import api_keys, bundle_history, predictions
from tests.records.samples import prediction


def test_a_prediction_fills_every_column() -> None:
    own = own_columns(predictions, json.loads(json.dumps(prediction().as_payload())))
    row = event_columns(predictions, "c" * 16, 3, "at", "key12345") | own
    assert row.keys() == set(predictions.columns.keys())
    assert row["probabilities"] == '{"normal":0.1,"pneumonia":0.9}'
    assert row["stat_aspect"] == 0.1 + 0.2
    assert row["image_height"] == 512
    assert row["key_id"] == "key12345"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_column_holds_the_float_of_the_payload(value: float) -> None:
    payload = json.loads(json.dumps(prediction(latency_ms=value).as_payload()))
    stored = own_columns(predictions, payload)["latency_ms"]
    assert stored == value
    assert math.copysign(1, stored) == 1 or value < 0


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("latency_ms", "12.5"),
        ("latency_ms", True),
        ("latency_ms", None),
        ("image_width", 448.0),
        ("image_width", True),
        ("label", 1),
        ("label", None),
        ("label", "a\0b"),
        ("label", "\ud800"),
    ],
)
def test_a_value_of_another_type_is_refused(member: str, value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        own_columns(predictions, prediction().as_payload() | {member: value})


def test_nullable_columns_take_null() -> None:
    assert own_columns(predictions, prediction(confidence=None).as_payload())["confidence"] is None


def test_members_and_columns_match_exactly() -> None:
    payload = prediction().as_payload()
    with pytest.raises(ValueError, match=r"missing \['label'\], unknown \['lable'\]"):
        own_columns(predictions, {("lable" if k == "label" else k): v for k, v in payload.items()})
    with pytest.raises(ValueError, match="must be an object"):
        own_columns(predictions, [])  # type: ignore[arg-type]  # what a damaged payload may hold


def test_sections_are_the_members_named_like_tables() -> None:
    found = dict(sections({"request_id": "x", "api_keys": {"id": "k"}, "bundle_history": {}}))
    assert found == {api_keys: {"id": "k"}, bundle_history: {}}
    assert set(PROJECTED) == {
        "predictions", "film_sources", "idempotency_keys", "api_keys", "api_key_lanes", "api_key_revocations",
        "bundle_history", "engine_choices",
    }  # fmt: skip


def test_storable_text_comes_back() -> None:
    assert storable("é") == "é"
