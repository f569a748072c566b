"""The bytes of all requests together, and the part that urgent ones alone may take."""

from __future__ import annotations

import pytest

from app.api.memory import InFlight
from app.errors import UnavailableError


def test_an_eighth_is_kept_for_urgent_requests() -> None:
    shared = InFlight(800)
    with shared.hold(urgent=False) as routine, shared.hold(urgent=True) as stat:
        routine.take(700)
        with pytest.raises(UnavailableError):
            routine.take(1)
        stat.take(100)
        with pytest.raises(UnavailableError):
            stat.take(1)
        assert shared.held == 800
    assert shared.held == 0
