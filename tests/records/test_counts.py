from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.records.counts import CELLS_MAX, OTHER, Counts

NOW = datetime(2026, 11, 20, 10, 0, 30, tzinfo=UTC)


def test_one_event_per_kind_code_prefix_and_minute() -> None:
    counts = Counts()
    for _ in range(3):
        counts.add(NOW, "authentication", "unauthenticated", "abcdefgh")
    counts.add(NOW, "authentication", "unauthenticated", None)
    counts.add(NOW + timedelta(minutes=1), "authentication", "unauthenticated", "abcdefgh")
    assert counts.take(NOW) == []
    first = counts.take(NOW + timedelta(minutes=1))
    assert [(e.kind, e.key_id, dict(e.payload)) for e in first] == [
        ("counted", None, {"minute": "2026-11-20T10:00Z", "kind": "authentication", "code": "unauthenticated", "key_prefix": p, "count": n})
        for p, n in ((None, 1), ("abcdefgh", 3))
    ]  # fmt: skip
    assert [e.payload["count"] for e in counts.take(None)] == [1]
    assert counts.take(None) == []


def test_a_flood_of_prefixes_ends_in_one_cell() -> None:
    counts = Counts()
    for i in range(CELLS_MAX + 500):
        counts.add(
            NOW,
            "authentication",
            "unauthenticated",
            "".join("abcdefghijklmnopqrstuvwxyz"[i // 26**k % 26] for k in range(8)),
        )
    events = counts.take(None)
    assert len(events) == CELLS_MAX + 1
    assert [e.payload["count"] for e in events if e.payload["key_prefix"] == OTHER] == [500]


def test_text_of_a_client_is_not_kept_unless_it_could_be_a_key_id() -> None:
    counts = Counts()
    counts.add(NOW, "rate_limited", "rate_limited", "Mr. Smith")
    (event,) = counts.take(None)
    assert event.payload["key_prefix"] == OTHER
    with pytest.raises(ValueError, match="lower-case"):
        counts.add(NOW, "Rate limited", "x", None)
