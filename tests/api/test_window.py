"""How far back a report looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.window import MAX_HOURS, parse_window
from app.errors import RequestError


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("24h", 24),
        ("1h", 1),
        ("7d", 168),
        ("366d", 8784),
        ("P7D", 168),
        ("P1W", 168),
        ("PT36H", 36),
        ("P1DT12H", 36),
        ("PT90M", 1.5),
        ("P2W3DT4H30M", (17 * 24) + 4.5),
    ],
)
def test_durations(text: str, hours: float) -> None:
    assert parse_window(text) == hours


def test_none_is_the_setting() -> None:
    assert parse_window(None) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0h",
        "0d",
        "24",
        "h",
        "-7d",
        "7D",
        "7 d",
        "1.5d",
        "367d",
        "P",
        "PT",
        "P1DT",
        "PT0M",
        "P1Y",
        "P1M",
        "9" * 16,
        "\u0667d",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_window(text)
    assert caught.value.code == "invalid_parameter"
    assert "window" in caught.value.detail


@given(st.text(max_size=16))
def test_any_text_gives_hours_in_range_or_the_code(text: str) -> None:
    try:
        hours = parse_window(text)
    except RequestError as error:
        assert error.code == "invalid_parameter"  # noqa: PT017 - either outcome is right
    else:
        assert hours is not None
        assert 0 < hours <= MAX_HOURS
