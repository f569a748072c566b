"""The drift report as a page: self-contained, every row, nothing that could run."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from app.api.drift_page import STYLE_POLICY, drift_page
from app.api.drift_schema import DriftAnswer
from app.api.examples import EXAMPLES


def answer(**changes: Any) -> DriftAnswer:
    return DriftAnswer.model_validate({**EXAMPLES["DriftAnswer"], **changes})


def test_every_row_is_there() -> None:
    page = drift_page(answer())
    assert "<h1>Drift report: <span" in page
    for text in ("mean", "pneumonia", "0.021", "59.0%", "62.0%", "1,200 predictions", "5,000 films", "example/1.0.0"):
        assert text in page, text
    assert page.count("<rect") == 20


def test_bars_are_on_one_scale() -> None:
    row = {**EXAMPLES["DriftAnswer"]["statistics"][0], "expected": [0.5, 0.5], "observed": [0.25, 0.75]}
    svg = re.search(r"<svg.*?</svg>", drift_page(answer(statistics=[row])))
    assert svg is not None
    bars = [(r.get("class"), r.get("y"), r.get("height")) for r in ET.fromstring(svg.group()).iter("rect")]
    assert bars == [("r", "14.7", "29.3"), ("w", "29.3", "14.7"), ("r", "14.7", "29.3"), ("w", "0.0", "44.0")]


def test_too_little_data_is_said() -> None:
    row = {
        **EXAMPLES["DriftAnswer"]["statistics"][0],
        "level": "insufficient_data",
        "psi": None,
        "chance": None,
        "n": 0,
        "observed": [],
    }
    page = drift_page(answer(n=3, level="insufficient_data", statistics=[row]))
    assert "insufficient data" in page
    assert "At least 500 predictions are needed" in page
    assert "no values" in page
    assert "<rect" not in page


def test_a_small_reference_is_said() -> None:
    assert "at least 180 films are needed" in drift_page(answer(n_reference=24, level="insufficient_data"))
    assert "needed" not in drift_page(answer())


def test_the_style_is_the_one_that_the_policy_allows() -> None:
    page = drift_page(answer())
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in STYLE_POLICY
    assert not re.search(r"<script|\son\w+=|\sstyle=|https?://|url\(|@import", page)


@pytest.mark.parametrize("evil", ["<script>x</script>", '"><img src=x>', "a&b"])
def test_words_are_escaped(evil: str) -> None:
    statistics = [{**EXAMPLES["DriftAnswer"]["statistics"][0], "name": evil}]
    page = drift_page(answer(bundle=evil, request_id=evil, statistics=statistics))
    assert evil not in page
