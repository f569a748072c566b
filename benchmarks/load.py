"""Loads against a running server: the plan for the generator's process, its start, and what came back, as rows.

A `Question` is what is asked (route, form of the film, headers) with the logits that the right answer holds; a `Target` is a server
that runs. Conditions for VALID are the profile's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.inference.cores import usable_cores
from benchmarks.http_client import Request
from benchmarks.outcome import Answers, Conditions, Cost, Measured, Samples, compare, measured
from benchmarks.processes import Watch
from benchmarks.schedule import every_nth, poisson_schedule

TIMEOUT_S = 60.0
OPEN_CONNECTIONS_MAX = 1_000  # of an open loop; beyond it requests leave late, and the row says so
Logits = Callable[[bytes], Sequence[float]]


class Target(Protocol):
    """A running server."""

    @property
    def port(self) -> int: ...

    @property
    def pid(self) -> int:
        """The process whose tree is the server."""


@dataclass(frozen=True)
class Question:
    """What is asked. requests: taken in turn; logits: of an answer's body; reference: [len(requests), K], None where no logits come.

    films: films in one request; tolerance: of |dz| / max(1, |z|). Without logits an answer counts as checked by `shape`.
    """

    name: str
    requests: tuple[Request, ...]
    logits: Logits | None = None
    reference: NDArray[np.float64] | None = None
    tolerance: float = 1e-3
    films: int = 1
    shape: Callable[[bytes], bool] | None = None


@dataclass(frozen=True)
class Seen:
    """The raw result of a load. bodies: of answers with status 200, by entry of the samples."""

    samples: Samples
    bodies: dict[int, bytes]
    cost: Cost


def closed_loop(
    target: Target,
    subject: str,
    question: Question,
    *,
    connections: int,
    seconds: float,
    conditions: Conditions,
    requests: int = 0,
) -> Measured:
    """A load of n connections for so many seconds (and at most so many requests, unless 0)."""
    plan = {"mode": "closed", "connections": connections, "seconds": seconds, "requests": requests}
    seen = send(target, question, plan)
    return _row(seen, subject, question, f"closed {connections}", conditions, None)


@dataclass(frozen=True)
class Arrivals:
    """The instants of an open loop, and which of the question's requests leaves at each."""

    at: NDArray[np.float64]
    form: NDArray[np.int64]
    schedule_s: float

    @classmethod
    def poisson(cls, rate_per_s: float, seconds: float, forms: int, seed: int) -> Arrivals:
        at = poisson_schedule(rate_per_s, seconds, seed)
        return cls(at, np.arange(at.size) % forms, seconds)

    def then(self, later: Arrivals) -> Arrivals:
        """Followed by others; the forms stay as they are."""
        at = np.concatenate([self.at, self.schedule_s + later.at])
        return Arrivals(at, np.concatenate([self.form, later.form]), self.schedule_s + later.schedule_s)

    def urgent_every(self, n: int, forms: int) -> Arrivals:
        """Every n-th request takes its form from a second set of `forms` requests that stands behind the first."""
        return replace(self, form=np.where(every_nth(n, self.form.size), self.form + forms, self.form))


def open_loop(
    target: Target, subject: str, question: Question, arrivals: Arrivals, *, load: str, conditions: Conditions
) -> tuple[Measured, Samples]:
    """A load at instants that were fixed beforehand; its samples too, for a closer look."""
    seen = send_at(target, question, arrivals)
    return _row(seen, subject, question, load, conditions, arrivals.schedule_s), seen.samples


def send_at(target: Target, question: Question, arrivals: Arrivals, timeout_s: float = TIMEOUT_S) -> Seen:
    plan = {"mode": "open", "connections": OPEN_CONNECTIONS_MAX, "timeout_s": timeout_s}
    return send(target, question, plan, arrivals)


def send(target: Target, question: Question, plan: dict[str, Any], arrivals: Arrivals | None = None) -> Seen:
    """Run the generator beside the watched server.

    Raises:
        RuntimeError: the generator failed.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-load-") as name:
        folder = Path(name)
        forms = []
        for i, request in enumerate(question.requests):
            (folder / f"{i}.bin").write_bytes(request.body)
            forms.append({"head": request.head.decode("latin-1"), "body": f"{i}.bin"})
        keep = question.logits is not None or question.shape is not None
        whole = {"port": target.port, "forms": forms, "keep": keep, "timeout_s": TIMEOUT_S, "requests": 0, **plan}
        (folder / "plan.json").write_text(json.dumps(whole))
        if arrivals is not None:
            np.savez(folder / "schedule.npz", at=arrivals.at, form=arrivals.form)
        with Watch(target.pid) as watch:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.generator", name], capture_output=True, text=True, check=False
            )
        if done.returncode:
            raise RuntimeError(f"the load generator ended with {done.returncode}: {done.stderr[-2000:]}")
        return _read(folder, watch)


def _read(folder: Path, watch: Watch) -> Seen:
    result = np.load(folder / "result.npz")
    table, ends = result["table"], np.cumsum(result["lengths"])
    data = (folder / "bodies.bin").read_bytes()
    bodies = {
        int(entry): data[end - length : end]
        for entry, length, end in zip(result["entries"], result["lengths"], ends, strict=True)
    }
    statuses, template = (table[:, i].astype(np.int64) for i in (3, 4))
    samples = Samples(table[:, 0], table[:, 1], table[:, 2], statuses, template)
    return Seen(samples, bodies, Cost(watch.cpu_s, watch.before, watch.peak, watch.after, float(result["cpu_s"])))


def _row(
    seen: Seen, subject: str, question: Question, load: str, conditions: Conditions, schedule_s: float | None
) -> Measured:
    return measured(
        seen.samples,
        subject=subject,
        asked=question.name,
        load=load,
        answers=check(seen, question),
        cost=seen.cost,
        cores=usable_cores(),
        conditions=conditions,
        schedule_s=schedule_s,
        films=question.films,
    )


def check(seen: Seen, question: Question) -> Answers:
    """Compare what came back with what had to come."""
    if question.logits is None or question.reference is None:
        if question.shape is None:
            return Answers()
        wrong = sum(not question.shape(body) for body in seen.bodies.values())
        return Answers(len(seen.bodies), wrong)
    want, have = [], []
    for entry, body in seen.bodies.items():
        reference = question.reference[seen.samples.template[entry]]
        want.append(reference)
        have.append(_logits_or_nan(question.logits, body, len(reference)))
    shape = (-1, question.reference.shape[1])
    return compare(np.reshape(have, shape), np.reshape(want, shape), question.tolerance)


def _logits_or_nan(logits: Logits, body: bytes, count: int) -> Sequence[float]:
    try:
        found = logits(body)
    except (ValueError, KeyError, IndexError, TypeError):
        return [float("nan")] * count
    return found if len(found) == count else [float("nan")] * count
