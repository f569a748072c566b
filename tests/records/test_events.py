from __future__ import annotations

import json

import numpy as np
import pytest

from app.records.events import PAYLOAD_MAX_BYTES, AuditEvent, EventId, prepare
from app.records.tables import predictions
from tests.records.samples import event, prediction


def test_a_prediction_is_in_the_payload_and_its_row_equals_it() -> None:
    draft = prepare(event(3), prediction(3))
    payload = json.loads(draft.payload)
    assert payload["request_id"] == "request-000003"
    ((table, row),) = draft.rows
    assert table is predictions
    assert payload["predictions"]["label"] == row["label"] == "pneumonia"
    assert json.loads(row["projection"]) == payload["predictions"]["projection"] == [i / 7 for i in range(16)]


def test_a_plain_event_has_no_rows() -> None:
    draft = prepare(AuditEvent("refused", "abcdefgh", {"code": "too_small"}))
    assert (draft.payload, draft.key_id, draft.rows) == ('{"code":"too_small"}', "abcdefgh", ())
    assert draft.payload_sha256 == "b3fa48c8197f5847d5e2216706b67654ed0aee1c0c7ce24a3c8269e437b3d25e"


@pytest.mark.parametrize(
    "bad",
    [
        AuditEvent("Predict", None, {}),
        AuditEvent("", None, {}),
        AuditEvent("predict", None, {"x": float("nan")}),
        AuditEvent("predict", None, {"x": np.float32(1)}),
        AuditEvent("predict", None, {"x": b""}),
        AuditEvent("predict", None, {"x": "a" * PAYLOAD_MAX_BYTES}),
        AuditEvent("predict", "a\0b", {}),
        AuditEvent("predict", None, {"api_keys": {"id": "forged"}}),
        AuditEvent("predict", None, {"predictions": {}}),
    ],
)
def test_a_bad_event_fails_where_it_is_made(bad: AuditEvent) -> None:
    with pytest.raises((TypeError, ValueError)):
        prepare(bad)


def test_a_bad_prediction_fails_where_it_is_made() -> None:
    for bad in (
        prediction(latency_ms=float("inf")),
        prediction(label="a\0"),
        prediction(projection=(0.0,) * 15),
        prediction(key_id="somebody"),
    ):
        with pytest.raises(ValueError, match=r".+"):
            prepare(event(), bad)


def test_an_event_id_reads_as_chain_and_place() -> None:
    assert str(EventId("0123456789abcdef", 4)) == "0123456789abcdef:4"
