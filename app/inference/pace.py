"""What jobs take, what they waited, and so how long the next one would wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from app.domain import LANES, Lane
from app.inference.lanes import REASONS, Reason

_SMOOTHING: Final = 0.1  # weight of the newest job in the moving average


class Pace:
    """By lane: the moving average of a job's time on its thread, and counts since the start."""

    def __init__(self) -> None:
        self._service_s: dict[Lane, float] = {}
        self.begun: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self.waited_s: dict[Lane, float] = dict.fromkeys(LANES, 0.0)
        self.refused: dict[Lane, dict[Reason, int]] = {lane: dict.fromkeys(REASONS, 0) for lane in LANES}

    def began(self, lane: Lane, waited_s: float) -> None:
        """A job was taken by a worker."""
        self.begun[lane] += 1
        self.waited_s[lane] += waited_s

    def took(self, lane: Lane, seconds: float) -> None:
        """A job ended."""
        before = self._service_s.get(lane, seconds)
        self._service_s[lane] = before + (seconds - before) * _SMOOTHING

    def service_s(self, lane: Lane) -> float:
        """What a job of a lane takes at present; of the slowest lane known where this one has not run yet, 0 before any job."""
        return self._service_s.get(lane, max(self._service_s.values(), default=0.0))

    def work_s(self, jobs: Mapping[Lane, int]) -> float:
        """Thread time of so many jobs."""
        return sum(n * self.service_s(lane) for lane, n in jobs.items() if n)
