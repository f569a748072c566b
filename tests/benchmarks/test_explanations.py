from __future__ import annotations

from pathlib import Path

import pytest

from app.bundle.store import BundleStore
from app.live import load_bundle
from benchmarks.explanations import KINDS, Cost, measure, smooth_ratio, table
from tests.support.tiny_bundle import make_tiny_bundle


def test_every_kind_is_measured_and_the_plain_judgement_is_the_unit(tmp_path: Path) -> None:
    costs = measure(load_bundle(BundleStore(tmp_path), make_tiny_bundle(tmp_path)), px=128, rounds=1)
    assert [cost.kind for cost in costs] == list(KINDS)
    assert all(cost.cpu_ms > 0 and cost.wall_ms > 0 for cost in costs)
    assert (KINDS[0].method, KINDS[0].tta) == (None, False)


def test_the_table_by_hand() -> None:
    costs = [Cost(kind, cpu_ms=10.0 * (i + 1), wall_ms=20.0) for i, kind in enumerate(KINDS)]
    assert smooth_ratio(costs) == pytest.approx(5.0)
    assert "| SmoothGrad-CAM++ (16 samples) | 50.0 | 20.0 | 5.00 |" in table(costs)
    assert "| plain | 10.0 | 20.0 | 1.00 |" in table(costs)
