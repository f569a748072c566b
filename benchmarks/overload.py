"""This service at several times its capacity: what it still answers, how soon it refuses, whether urgent films pass, how it recovers.

One open loop: overload, then a fifth of the capacity for a while. Every tenth request is urgent (`X-Priority: stat`). /health/ready is
asked meanwhile from here. Before it, the same urgent requests on an idle service say what their p95 is without a load.
"""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import replace
from typing import Final

import numpy as np

from app.inference.cores import usable_cores
from benchmarks.load import Arrivals, Question, Seen, check, open_loop, send_at
from benchmarks.outcome import Cost, Measured, Percentiles, Samples, measured, recovery_s
from benchmarks.profile import OVERLOADED, Profile
from benchmarks.questions import with_urgent
from benchmarks.report import Report
from benchmarks.subjects import Started

URGENT_EVERY: Final = 10
CALM: Final = 0.2  # of the capacity, after the overload
CALM_S: Final = 5.0
IDLE: Final = 0.1  # of the capacity: what an unloaded service is asked
MIB: Final = 2**20


def overload(report: Report, subject: str, started: Started, full: Measured, level: int, profile: Profile) -> None:
    """One level; writes its row, and facts and ratios about it. full: the closed loop just before, which says what the capacity is."""
    capacity = full.per_s
    question, forms = with_urgent(started.question), len(started.question.requests)
    idle_p95_ms = _idle(started, question, forms, capacity, profile)
    storm = Arrivals.poisson(capacity * level / 100, profile.open_s, forms, seed=level)
    calm = Arrivals.poisson(capacity * CALM, CALM_S, forms, seed=level + 1)
    arrivals = storm.urgent_every(URGENT_EVERY, forms).then(calm)
    with HealthProbe(started.target.port) as probe:
        seen = send_at(started.target, question, arrivals)
    during = seen.samples.select(seen.samples.scheduled_s < profile.open_s)
    row = report.row(
        measured(
            during,
            subject=subject,
            asked=question.name,
            load=f"open {level} %",
            answers=check(seen, question),
            cost=_of_storm(seen, profile.open_s),
            cores=usable_cores(),
            conditions=OVERLOADED,
            schedule_s=profile.open_s,
        )
    )
    _tell(report, row, during, forms, full, idle_p95_ms, level)
    recovered = recovery_s(seen.samples, profile.open_s, 2 * idle_p95_ms / 1e3)
    report.fact(f"{subject}, after {level} %: recovered after", f"{recovered:.2f} s")
    probe.tell(report, f"{subject}, at {level} %: /health/ready")


def _of_storm(seen: Seen, ends_s: float) -> Cost:
    """The cost of both loads, less the share of the answers of the calm."""
    answered = seen.samples.answered
    storm = float((answered & (seen.samples.scheduled_s < ends_s)).sum() / max(1, answered.sum()))
    return replace(seen.cost, cpu_s=seen.cost.cpu_s * storm, generator_cpu_s=seen.cost.generator_cpu_s * storm)


def _idle(started: Started, question: Question, forms: int, capacity: float, profile: Profile) -> float:
    arrivals = Arrivals.poisson(max(2.0, capacity * IDLE), profile.open_s / 2, forms, seed=1)
    urgent = replace(arrivals, form=arrivals.form + forms)
    row, _ = open_loop(started.target, "", question, urgent, load="", conditions=OVERLOADED)
    return row.latency.p95


def _tell(
    report: Report, row: Measured, during: Samples, forms: int, full: Measured, idle_p95_ms: float, level: int
) -> None:
    urgent = during.select(during.template >= forms)
    stat = Percentiles.of(urgent.latency_s[urgent.answered])
    name = f"({row.subject}, {level} %)"
    sound = 1.0 if row.sound and full.sound else float("nan")
    report.ratio(f"goodput/capacity {name}", sound * row.per_s / full.per_s)
    report.ratio(f"goodput/capacity in server CPU, refusals included {name}", sound * full.cpu_ms / row.cpu_ms)
    report.fact(
        f"{row.subject}, at {level} %: the client's share of the cores",
        f"{_client_share(row):.1%}; at capacity {_client_share(full):.1%}",
    )
    report.ratio(f"stat p95 loaded/unloaded {name}", stat.p95 / idle_p95_ms)
    report.ratio(f"stat answered {name}", float(urgent.answered.mean()) if urgent.statuses.size else float("nan"))
    grown = (row.cost.rss_after - row.cost.rss_before) / MIB
    report.fact(
        f"{row.subject}, at {level} %: refusals",
        f"{row.refused} of {row.sent}, p50 {row.refusal.p50:.1f} p99 {row.refusal.p99:.1f} ms",
    )
    report.fact(f"{row.subject}, at {level} %: resident memory grew by", f"{grown:+.1f} MiB")


def _client_share(row: Measured) -> float:
    """CPU of the load generator, which runs on the same cores, of all that there was."""
    return row.cost.generator_cpu_s / (row.seconds * row.cores)


class HealthProbe:
    """Asks /health/ready every 20 ms while the context lasts."""

    def __init__(self, port: int) -> None:
        self._port, self._end = port, threading.Event()
        self.times_s: list[float] = []
        self.not_ready = 0

    def __enter__(self) -> HealthProbe:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def tell(self, report: Report, name: str) -> None:
        times = Percentiles.of(np.array(self.times_s))
        report.fact(name, f"of {times.n}: p50 {times.p50:.1f}, worst {times.worst:.1f} ms, {self.not_ready} not ready")

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._end.wait(0.02):
            begun = time.perf_counter()
            try:
                connection.request("GET", "/health/ready")
                response = connection.getresponse()
                response.read()
                self.not_ready += response.status != 200
            except (OSError, http.client.HTTPException):
                self.not_ready += 1
                connection.close()
            self.times_s.append(time.perf_counter() - begun)
        connection.close()
