"""How a long command shows where it is: one line that moves on a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping

SHOW_S = 0.2
SAY_S = 30.0
_WIDTH = 30


class Progress:
    """On standard error.

    Args:
        total: of all there is to do; done: of it, before now.
    """

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done, self._before = total, done, done
        self._counts = Counter[str]()
        self._live = sys.stderr.isatty()
        self._began = time.monotonic()
        self._next = self._began + (0.0 if self._live else SAY_S)

    def step(self, what: str) -> None:
        """One more, that came out as `what`."""
        self._done += 1
        self._counts[what] += 1
        now = time.monotonic()
        if now >= self._next or (self._live and self._done == self._total):
            self._next = now + (SHOW_S if self._live else SAY_S)
            print(self._line(now), end="" if self._live else "\n", file=sys.stderr, flush=True)  # noqa: T201

    def end(self) -> None:
        """Leave the line."""
        if self._live:
            print(file=sys.stderr, flush=True)  # noqa: T201

    def _line(self, now: float) -> str:
        seconds = max(now - self._began, 1e-9)
        rate = (self._done - self._before) / seconds
        left = (self._total - self._done) / rate if rate > 0 else 0.0
        full = self._done * _WIDTH // max(self._total, 1)
        counts = ", ".join(f"{count:,} {what}" for what, count in sorted(self._counts.items()))
        bar = f"\r\x1b[K[{'#' * full}{'.' * (_WIDTH - full)}] " if self._live else ""
        return f"{bar}{self._done:,} of {self._total:,}  {rate:.1f}/s  {span(left)} left  {counts}"


def span(seconds: float) -> str:
    """As `2 d 3 h`, `3 h 20 min`, `4 min`, `12 s`."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def table(rows: Mapping[str, str]) -> str:
    """Two columns."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
