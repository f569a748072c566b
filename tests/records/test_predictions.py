from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np

from app.records.tables import STATISTICS
from app.settings import Settings
from tests.records.conftest import OpenRecords
from tests.records.samples import STATISTICS as SAMPLE
from tests.records.samples import event, prediction


def test_a_window_holds_what_was_judged_in_it(settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(settings)
    began = datetime.now(UTC) - timedelta(seconds=1)
    for i in range(4):
        records.record_now(
            event(i), prediction=prediction(i, confidence=0.5 + i / 10, projection=tuple([float(i)] * 16))
        )
    records.record_now(event(4), prediction=prediction(4, label="normal"))
    multilabel = prediction(
        5, task="multilabel", positive=("effusion", "mass"), confidence=None, bundle_digest="e" * 64
    )
    records.record_now(event(5), prediction=multilabel)
    until = datetime.now(UTC) + timedelta(seconds=1)

    window = asyncio.run(records.window(began, until, digest="d" * 64))
    assert (window.n, window.truncated) == (5, False)
    assert window.labels == {"pneumonia": 4, "normal": 1}
    assert set(window.statistics) == {*STATISTICS, "confidence"}
    assert window.statistics["aspect"].tolist() == [SAMPLE.aspect] * 5
    assert window.statistics["confidence"].tolist() == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert window.projections.shape == (5, 16)
    assert window.projections.dtype == np.float32
    assert window.projections[:4, 3].tolist() == [0, 1, 2, 3]

    both = asyncio.run(records.window(began, until))
    assert both.n == 6
    assert both.labels == {"pneumonia": 4, "normal": 1, "effusion": 1, "mass": 1}
    assert np.isnan(both.statistics["confidence"]).tolist() == [False] * 5 + [True]

    newest = asyncio.run(records.window(began, until, digest="d" * 64, limit=2))
    assert (newest.n, newest.truncated) == (2, True)
    assert newest.statistics["confidence"].tolist() == [0.8, 0.9]
    exact = asyncio.run(records.window(began, until, digest="d" * 64, limit=5))
    assert (exact.n, exact.truncated) == (5, False)


def test_an_empty_window(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    now = datetime.now(UTC)
    window = asyncio.run(records.window(now - timedelta(days=1), now))
    assert (window.n, window.truncated, window.labels) == (0, False, {})
    assert window.projections.shape == (0, 16)
    assert window.statistics["mean"].shape == (0,)


def test_a_window_larger_than_a_chunk(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)

    async def fill() -> None:
        await asyncio.gather(*(records.record(event(i), prediction=prediction(i)) for i in range(600)))

    asyncio.run(fill())
    now = datetime.now(UTC)
    window = asyncio.run(records.window(now - timedelta(hours=1), now + timedelta(hours=1)))
    assert (window.n, window.labels) == (600, {"pneumonia": 600})
