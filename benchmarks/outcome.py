"""What a load saw, and the arithmetic on it: percentiles, late sends, refusals, and whether a figure may be called VALID.

Latency counts from the *scheduled* instant. A generator that waits for a stalled service before it sends the next request leaves out
exactly the requests that would have suffered (coordinated omission: giltene/wrk2 shows 1.27 s and 6.04 ms for one run).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LATE_S: Final = 0.010  # a request that left this much after its instant was sent late
REFUSED: Final = (429, 503)
NO_ANSWER: Final = 0  # the status of a request that got none in time


@dataclass(frozen=True)
class Samples:
    """One entry per request, seconds since the load began: float64 [n] scheduled, sent, done; statuses int64 [n]; template int64 [n].

    done of a request without an answer is the instant at which it was given up; template: which of the requests' forms it was.
    """

    scheduled_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    done_s: NDArray[np.float64]
    statuses: NDArray[np.int64]
    template: NDArray[np.int64]

    def select(self, which: NDArray[np.bool_]) -> Samples:
        return Samples(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    @property
    def answered(self) -> NDArray[np.bool_]:
        return np.asarray(self.statuses == 200)

    @property
    def refused(self) -> NDArray[np.bool_]:
        return np.asarray(np.isin(self.statuses, REFUSED))

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """From the scheduled instant, coordinated omission included."""
        return self.done_s - self.scheduled_s

    @property
    def service_s(self) -> NDArray[np.float64]:
        """From the instant it was really sent."""
        return self.done_s - self.sent_s

    @property
    def late(self) -> NDArray[np.bool_]:
        return np.asarray(self.sent_s - self.scheduled_s > LATE_S)


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds, by nearest rank: each is a time that really occurred. n: how many times there were; without any, all are NaN."""

    p50: float
    p95: float
    p99: float
    worst: float
    n: int

    @classmethod
    def of(cls, seconds: NDArray[np.float64]) -> Percentiles:
        if not seconds.size:
            return cls(np.nan, np.nan, np.nan, np.nan, 0)
        found = np.percentile(seconds, [50, 95, 99, 100], method="inverted_cdf") * 1e3
        p50, p95, p99, worst = (float(value) for value in found)
        return cls(p50, p95, p99, worst, int(seconds.size))


@dataclass(frozen=True)
class Answers:
    """Answers compared with the reference. worst: largest |dz| / max(1, |z|) of a logit; wrong: answers beyond the tolerance."""

    checked: int = 0
    wrong: int = 0
    worst: float = 0.0
    tolerance: float = 0.0


@dataclass(frozen=True)
class Cost:
    """Of the server's processes together while the load ran. rss in bytes: at the start, the highest seen, and at the end."""

    cpu_s: float
    rss_before: int
    rss_peak: int
    rss_after: int
    generator_cpu_s: float


@dataclass(frozen=True)
class Conditions:
    """What a run must be to count. late: largest share of late sends; refusals: whether 429 and 503 are accepted answers."""

    seconds: float
    answers: int
    late: float = 0.01
    refusals: bool = False


@dataclass(frozen=True)
class Measured:
    """One row: who was asked what, how, and what came of it.

    offered_per_s: of an open loop, else None. seconds: from the begin to the last answer (closed loop), or the schedule's length.
    per_s: films of answers with status 200 per second. latency: of those answers, from the scheduled instant; uncorrected: from the
    real one. refusal: of 429 and 503, from the instant of sending. films: of one request; every other count is of requests.
    faults: why the row is not VALID; none if it is.
    """

    subject: str
    asked: str
    load: str
    offered_per_s: float | None
    seconds: float
    sent: int
    answered: int
    refused: int
    errors: int
    late: float
    per_s: float
    latency: Percentiles
    uncorrected: Percentiles
    refusal: Percentiles
    answers: Answers
    cost: Cost
    cores: int
    faults: tuple[str, ...]
    films: int = 1

    @property
    def sound(self) -> bool:
        """Whether its speed may be compared: it has answers, none of them wrong, and no request failed."""
        return bool(self.answered) and not (self.errors or self.answers.wrong)

    @property
    def valid(self) -> bool:
        return not self.faults

    @property
    def cpu_ms(self) -> float:
        """Server CPU milliseconds per film answered."""
        return self.cost.cpu_s / max(1, self.answered * self.films) * 1e3

    @property
    def per_s_and_core(self) -> float:
        return self.per_s / self.cores

    def as_json(self) -> dict[str, Any]:
        more = {"cpu_s_per_1000": self.cpu_ms, "per_s_and_core": self.per_s_and_core, "valid": self.valid}
        found: dict[str, Any] = finite({**asdict(self), **more})
        return found


def finite(value: Any) -> Any:
    """NaN and infinity become None: JSON has neither."""
    if isinstance(value, dict):
        return {name: finite(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [finite(member) for member in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def measured(
    samples: Samples,
    *,
    subject: str,
    asked: str,
    load: str,
    answers: Answers,
    cost: Cost,
    cores: int,
    conditions: Conditions,
    schedule_s: float | None = None,
    films: int = 1,
) -> Measured:
    """The row of a load. schedule_s: length of an open loop's schedule; None for a closed loop. films: of each request."""
    answered, refused = samples.answered, samples.refused
    n, errors = int(samples.statuses.size), int((~answered & ~refused).sum())
    seconds = schedule_s if schedule_s is not None else float(samples.done_s.max(initial=0.0))
    late = float(samples.late.mean()) if n else 0.0
    row = Measured(
        subject=subject,
        asked=asked,
        load=load,
        offered_per_s=None if schedule_s is None else n / schedule_s,
        seconds=seconds,
        sent=n,
        answered=int(answered.sum()),
        refused=int(refused.sum()),
        errors=errors,
        late=late,
        per_s=_rate(samples, seconds) * films,
        latency=Percentiles.of(samples.latency_s[answered]),
        uncorrected=Percentiles.of(samples.service_s[answered]),
        refusal=Percentiles.of(samples.service_s[refused]),
        answers=answers,
        cost=cost,
        cores=cores,
        faults=(),
        films=films,
    )
    return Measured(**{**row.__dict__, "faults": faults(row, conditions)})


def _rate(samples: Samples, seconds: float) -> float:
    """Answers per second. Answers of an open loop that came after its schedule's end count over the time they took."""
    done = samples.done_s[samples.answered]
    return float(done.size / max(seconds, done.max(initial=0.0))) if done.size and seconds else 0.0


def faults(row: Measured, conditions: Conditions) -> tuple[str, ...]:
    """Why a row is not VALID: too short, too few answers, errors, refusals where none may be, wrong or unchecked answers, late sends."""
    found = []
    if row.seconds < conditions.seconds:
        found.append(f"{row.seconds:.0f} s of at least {conditions.seconds:.0f}")
    if row.answered * row.films < conditions.answers:
        found.append(f"{row.answered * row.films} films answered of at least {conditions.answers}")
    if row.errors:
        found.append(f"{row.errors} errors")
    if row.refused and not conditions.refusals:
        found.append(f"{row.refused} refused")
    if row.answers.wrong:
        found.append(f"{row.answers.wrong} of {row.answers.checked} answers differ from the reference")
    if not row.answers.checked:
        found.append("no answer was compared with the reference")
    if row.offered_per_s is not None and row.late > conditions.late:
        found.append(f"{row.late:.1%} sent late")
    return tuple(found)


def compare(logits: NDArray[np.float64], reference: NDArray[np.float64], tolerance: float) -> Answers:
    """Answers [n, K] beside what they must be [n, K]: |dz| <= tolerance * max(1, |z|); NaN, an answer without logits, is wrong."""
    off = np.abs(logits - reference) / np.maximum(1.0, np.abs(reference))
    worst = off.max(axis=1) if off.size else np.empty(0)
    known = worst[np.isfinite(worst)]
    return Answers(len(worst), int((~(worst <= tolerance)).sum()), float(known.max(initial=0.0)), tolerance)


def recovery_s(samples: Samples, end_s: float, limit_s: float) -> float:
    """Seconds after an overload's end until everything scheduled later is answered within limit_s; infinite if that never comes."""
    after = samples.select(samples.scheduled_s >= end_s)
    bad = ~after.answered | (after.latency_s > limit_s)
    if not bad.any():
        return 0.0
    last_bad = float(after.scheduled_s[bad].max())
    good_later = after.scheduled_s[~bad] > last_bad
    return last_bad - end_s if good_later.any() else float("inf")
