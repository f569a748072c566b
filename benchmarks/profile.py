"""How much is measured: `--quick` asks whether everything runs, the full profile makes the figures of the README."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.films import Format
from benchmarks.outcome import Conditions

MIN_SECONDS: Final = 30.0  # of a run that may be called VALID, whatever the profile
MIN_ANSWERS: Final = 500
STRICT: Final = Conditions(MIN_SECONDS, MIN_ANSWERS)
OVERLOADED: Final = Conditions(MIN_SECONDS, MIN_ANSWERS, refusals=True)


@dataclass(frozen=True)
class Profile:
    """seconds: of a closed loop; open_s: of an open one; trial_s: of a try at a competitor's setting; trials: most settings tried.

    levels, others: of open loops, % of the subject's capacity, of this service and of the other servers; formats: films of the formats
    part; rounds: of audit on and off; sides: of floor and service in turn; latency: requests per route at concurrency 1.
    """

    name: str
    seconds: float
    open_s: float
    trial_s: float
    trials: int
    connections: tuple[int, ...]
    levels: tuple[int, ...]
    others: tuple[int, ...]
    formats: tuple[tuple[Format, int], ...]
    rounds: int
    sides: int
    latency: int


_ALL: Final[tuple[tuple[Format, int], ...]] = tuple(
    (form, px) for px in (1_024, 2_048) for form in ("jpeg", "png", "dicom")
)
FULL: Final = Profile("full", 32, 40, 6, 12, (1, 4, 16, 64), (50, 80, 100, 200, 400), (80, 200), _ALL, 7, 4, 500)
QUICK: Final = Profile("quick", 3, 4, 2, 1, (1, 16), (80, 400), (), _ALL[:3], 1, 1, 20)
