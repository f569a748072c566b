"""The floor, this service and the servers that its users would otherwise pick: one run, one machine, one bundle, the same films.

Each of the others is tried at several settings; its best is measured. The network is DenseNet-121 with untrained weights, films are
JPEG phantoms of 1,024 px, sent as uploads to all. Capacity is taken from closed loops, latency from open ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from app.bundle.manifest import REFERENCE_VARIANT
from app.inference.cores import usable_cores
from benchmarks import subjects
from benchmarks.bundles import Network, densenet121_network, kept, write_competitors_files
from benchmarks.competitors import environment
from benchmarks.competitors.running import Name, Setting, settings
from benchmarks.floor import Floor, floor
from benchmarks.load import Arrivals, closed_loop, open_loop
from benchmarks.outcome import Measured
from benchmarks.overload import overload
from benchmarks.profile import OVERLOADED, STRICT, Profile
from benchmarks.questions import Reference, theirs
from benchmarks.report import Report
from benchmarks.subjects import Subject

SAME: Final = "this service, fp32"
DEFAULT: Final = "this service, default"
JUDGED_AT: Final = 16  # connections of the closed loop that the ratios are taken from


@dataclass(frozen=True)
class Bench:
    """What all the subjects share. model: the files that the other servers load; state: folder for the service's databases."""

    root: Path
    reference: Reference
    model: Path
    state: Path


@dataclass(frozen=True)
class Sides:
    """Floor and service in turn, one round beside the next. cpu, per_s: median of the rounds' ratios, nan where a round was not sound
    (an answer wrong, failed or refused: its speed is none); floors: those that were taken."""

    cpu: float
    per_s: float
    floors: tuple[Floor, ...]

    @property
    def floor_per_s(self) -> float:
        return float(np.median([floor.per_s for floor in self.floors]))


def prepare(folder: Path) -> Bench:
    """Write the bundle with its variants, and the others' files; those that lie in the folder already are taken."""
    root, model = folder / "densenet121", folder / "model"

    def made() -> Network:
        network = densenet121_network()
        write_competitors_files(model, network)
        return network

    ref = kept(root, made, with_variants=True)
    return Bench(root, Reference.of(root, ref), model, folder / "state")


def compare(report: Report, bench: Bench, profile: Profile, *, others: bool = True) -> None:
    """Every subject in turn, floors beside this service's rows, then the ratios."""
    _floor(report, bench, profile, "none")
    chosen = _chosen(report, _service(bench, DEFAULT, "auto", REFERENCE_VARIANT))
    ours = {
        REFERENCE_VARIANT: _service(bench, SAME, REFERENCE_VARIANT, REFERENCE_VARIANT),
        chosen: _service(bench, DEFAULT, "auto", chosen),
    }
    sides = {subject.name: side_by_side(report, bench, profile, subject, engine) for engine, subject in ours.items()}
    closed = {subject.name: closed_loops(report, subject, profile) for subject in ours.values()}
    for engine, subject in ours.items() if profile.name == "full" else [*ours.items()][:1]:
        open_loops(report, subject, profile, profile.levels, _capacity(closed[subject.name]))
        near_the_floor(report, subject, profile, partial(_floor, report, bench, profile, engine))
    if others:
        for subject in best_of_others(report, bench, profile):
            in_turn(report, [*ours.values()], subject, profile)
            closed[subject.name] = closed_loops(report, subject, profile)
            open_loops(report, subject, profile, profile.others, _capacity(closed[subject.name]))
    again = _floor(report, bench, profile, REFERENCE_VARIANT)
    report.ratio("floor_after/floor_before", again.per_s / sides[SAME].floors[0].per_s)
    _ratios(report, sides, closed)


def side_by_side(report: Report, bench: Bench, profile: Profile, subject: Subject, engine: str) -> Sides:
    """The floor before and after each of the service's rows: a machine whose clock wanders moves both."""
    with subject.start() as started:
        _warm(started)
        floors, rows = [_floor(report, bench, profile, engine)], []
        for _ in range(profile.sides):
            rows.append(_closed(started, subject.name, JUDGED_AT, profile.seconds))
            floors.append(_floor(report, bench, profile, engine))
    cpu, per_s = [], []
    for row, (before, after) in zip(rows, pairwise(floors), strict=True):
        report.row(replace(row, load=f"beside its floor, {JUDGED_AT}"))
        cpu.append((before.cpu_ms + after.cpu_ms) / 2 / _sound(row, row.cpu_ms))
        per_s.append(_sound(row, row.per_s) / ((before.per_s + after.per_s) / 2))
    report.fact(
        f"{subject.name}: floor's CPU over the service's, {len(cpu)} rounds", ", ".join(f"{ratio:.3f}" for ratio in cpu)
    )
    return Sides(float(np.median(cpu)), float(np.median(per_s)), tuple(floors))


def in_turn(report: Report, ours: Sequence[Subject], other: Subject, profile: Profile) -> None:
    """Ours and another server one beside the next, in rounds: the median of the rounds' ratios is what they are compared by."""
    ratios: dict[str, list[float]] = {subject.name: [] for subject in ours}
    with ExitStack() as running:
        started = {subject.name: running.enter_context(subject.start()) for subject in (*ours, other)}
        for one in started.values():
            _warm(one)
        for _ in range(profile.sides):
            rows = {name: _closed(one, name, JUDGED_AT, profile.seconds / 4) for name, one in started.items()}
            per_s = {name: _sound(row, row.per_s) for name, row in rows.items()}
            for name, found in ratios.items():
                found.append(per_s[name] / per_s[other.name])
    for name, found in ratios.items():
        short = {SAME: "fp32", DEFAULT: "default"}[name]
        report.ratio(f"{short}/{other.name}", float(np.median(found)))
        report.fact(f"{short}/{other.name}, {len(found)} rounds in turn", ", ".join(f"{ratio:.2f}" for ratio in found))


def _sound(row: Measured, value: float) -> float:
    """The row's value; nan where an answer was wrong, refused or failed. A median of values with a nan among them is nan."""
    return value if row.sound and not row.refused else float("nan")


def _floor(report: Report, bench: Bench, profile: Profile, engine: str) -> Floor:
    found = floor(bench.root, bench.reference.bundle.ref, profile.seconds / 2, engine)
    report.fact(
        f"floor in process, {'decode and preprocessing only' if engine == 'none' else engine}",
        f"{found.per_s:.1f} images/s, {found.per_s / found.cores:.1f} per core, {found.cpu_ms:.1f} CPU-ms each, "
        f"peak {found.peak_rss / 2**20:.0f} MiB",
    )
    report.data.setdefault("floors", []).append(asdict(found))
    return found


def _service(bench: Bench, name: str, engine: str, judge: str) -> Subject:
    """engine: what the service is told; judge: the engine that computes the answers that are right."""
    reference = Reference.of(bench.root, bench.reference.bundle.ref, judge)
    return subjects.service(name, bench.root, reference, engine=engine, state=bench.state / engine)


def _chosen(report: Report, subject: Subject) -> str:
    with subject.start() as started:
        chosen = subjects.engine_of_answer(started)
    report.fact("engine that the service chose (CXR_ENGINE=auto)", chosen)
    report.data["chosen"] = chosen
    return chosen


def closed_loops(report: Report, subject: Subject, profile: Profile) -> dict[int, Measured]:
    rows = {}
    with subject.start() as started:
        _warm(started)
        for n in profile.connections:
            rows[n] = report.row(_closed(started, subject.name, n, profile.seconds))
    return rows


def open_loops(report: Report, subject: Subject, profile: Profile, levels: tuple[int, ...], capacity: float) -> None:
    """Poisson arrivals at shares of the subject's capacity. This service's is taken once more just before it is overloaded."""
    for level in levels:
        with subject.start() as started:  # afresh: no backlog of the level before
            _warm(started)
            if level > 100 and subject.name in (SAME, DEFAULT):
                now = _closed(started, subject.name, JUDGED_AT, profile.seconds / 2)
                overload(report, subject.name, started, now, level, profile)
                continue
            arrivals = Arrivals.poisson(
                capacity * level / 100, profile.open_s, len(started.question.requests), seed=level
            )
            conditions = OVERLOADED if level > 100 else STRICT
            row, _ = open_loop(
                started.target,
                subject.name,
                started.question,
                arrivals,
                load=f"open {level} %",
                conditions=conditions,
            )
            report.row(row)


def near_the_floor(report: Report, subject: Subject, profile: Profile, fresh: Callable[[], Floor]) -> None:
    """Poisson arrivals at 0.89 of what the machine can do without a server: the share of MLPerf's best CPU server."""
    with subject.start() as started:
        _warm(started)
        arrivals = Arrivals.poisson(0.89 * fresh().per_s, profile.open_s, len(started.question.requests), seed=89)
        row, _ = open_loop(
            started.target, subject.name, started.question, arrivals, load="open 0.89 floor", conditions=STRICT
        )
        report.row(row)
        report.ratio(f"p99/p50 at 0.89 of the floor ({subject.name})", row.latency.p99 / row.latency.p50)
        report.ratio(f"refused at 0.89 of the floor ({subject.name})", row.refused / max(1, row.sent))


def best_of_others(report: Report, bench: Bench, profile: Profile) -> list[Subject]:
    """Try the settings of each for a moment; the fastest is measured."""
    python, question = environment.python(), theirs(bench.reference)
    chosen: list[Subject] = []
    for name, tried in settings(usable_cores()).items():
        best: tuple[float, Setting] | None = None
        for setting in tried[: profile.trials]:
            row = _trial(report, name, setting, python, bench, profile)
            if row is not None and row.sound and not row.refused and (best is None or row.per_s > best[0]):
                best = row.per_s, setting
        if best is None:
            report.fact(f"{name}: not measured", "no setting answered soundly")
            continue
        report.fact(f"{name}: best of {len(tried[: profile.trials])} settings", best[1].words)
        chosen.append(subjects.competitor(best[1], python, bench.model, question))
    return chosen


def _trial(
    report: Report, name: Name, setting: Setting, python: Path, bench: Bench, profile: Profile
) -> Measured | None:
    """A short load at one setting; None where it does not run."""
    try:
        with subjects.competitor(setting, python, bench.model, theirs(bench.reference)).start() as started:
            _warm(started)
            row = _closed(started, name, JUDGED_AT, profile.trial_s)
    except RuntimeError as error:
        print(f"{name} ({setting.words}): {error}", flush=True)
        return None
    print(f"  try {name} ({setting.words}): {row.per_s:.1f}/s, {row.errors} errors", flush=True)
    trial = {"name": name, **setting.values, "per_s": row.per_s, "errors": row.errors, "refused": row.refused}
    report.data.setdefault("trials", []).append(trial)
    return row


def _closed(started: subjects.Started, name: str, connections: int, seconds: float) -> Measured:
    return closed_loop(
        started.target, name, started.question, connections=connections, seconds=seconds, conditions=STRICT
    )


def _warm(started: subjects.Started) -> None:
    closed_loop(
        started.target, "", started.question, connections=4, seconds=60, requests=4 * usable_cores(), conditions=STRICT
    )


def _capacity(rows: dict[int, Measured]) -> float:
    return max(row.per_s for row in rows.values())


def _ratios(report: Report, sides: dict[str, Sides], closed: dict[str, dict[int, Measured]]) -> None:
    """Those that the project promises. Of CPU where the client shares the cores, of images per second beside it."""
    at = {name: rows[JUDGED_AT] for name, rows in closed.items()}
    report.ratio("service/floor", sides[SAME].cpu)
    report.ratio("service/floor_images_per_second", sides[SAME].per_s)
    report.ratio("service_default/floor", sides[DEFAULT].cpu)
    report.ratio("service_default/floor_images_per_second", sides[DEFAULT].per_s)
    report.ratio("default/fp32", _sound(at[DEFAULT], at[DEFAULT].per_s) / _sound(at[SAME], at[SAME].per_s))
    report.ratio("default/fp32 of the floors", sides[DEFAULT].floor_per_s / sides[SAME].floor_per_s)
