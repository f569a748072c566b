"""This service by itself: start, routes, formats, what it costs without a network, the audit trail, a slow disk, the shipped bundle."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from app.bundle.manifest import REFERENCE_VARIANT
from app.bundle.store import BundleRef
from app.settings import PROJECT_ROOT
from benchmarks.bundles import identity_network, kept
from benchmarks.floor import floor
from benchmarks.load import Question, Target, closed_loop
from benchmarks.outcome import Measured
from benchmarks.phantoms_pass import SUFFIX, phantoms_pass
from benchmarks.profile import STRICT, Profile
from benchmarks.questions import Reference, batch, picture, predict
from benchmarks.report import Report
from benchmarks.server import SERVE, serving
from benchmarks.slow_disk import slow_disk
from benchmarks.subjects import UNLIMITED, engine_of_answer, service

UNAUDITED: Final = (sys.executable, "-m", "benchmarks.unaudited")
SLOW_MS: Final = 5.0
BUSY: Final = 16  # connections
_ROUNDS: Final = 5


def shipped(root: Path) -> tuple[Path, Reference]:
    """The bundle that ships, its gate warning where it would refuse."""
    ref = phantoms_pass(PROJECT_ROOT / "model_bundles", root)
    return root, Reference.of(root, ref)


def startup(report: Report, root: Path, runs: int) -> None:
    """Start to ready from an existing state folder, golden self-test included; idle memory."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        with serving(state, bundles_dir=root) as first:
            report.fact(
                "first start to ready (database, key ring, admin key, choice of engine)", f"{first.started_in_s:.2f} s"
            )
        times, rss = [], 0
        for _ in range(runs):
            with serving(state, bundles_dir=root) as server:
                times.append(server.started_in_s)
                time.sleep(1)
                rss = server.rss_bytes()
        report.fact("median fdatasync of the state folder", f"{fsync_ms(state):.2f} ms")
    report.fact(f"start to ready, median of {runs}, golden self-test included", f"{statistics.median(times):.2f} s")
    report.fact("idle resident memory", f"{rss / 2**20:.0f} MiB")


def fsync_ms(folder: Path, n: int = 50) -> float:
    """Median time of a 4 kB append and fdatasync here: what any durable answer costs at least."""
    times = []
    with (folder / "probe").open("wb") as file:
        for _ in range(n):
            start = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def routes(report: Report, root: Path, reference: Reference, profile: Profile) -> None:
    """Concurrency 1, the routes in turn in rounds, so that a noisy moment falls on all of them. Engine: the reference."""
    with serving(bundles_dir=root, engine=REFERENCE_VARIANT, rate_limit_per_minute=UNLIMITED) as server:
        key = server.key("service")
        asked = {
            "predict": predict(reference, key),
            "gradcam": predict(reference, key, path="/gradcam"),
            "gradcam_jpeg": picture(reference, key, "image/jpeg"),
            "gradcam_png": picture(reference, key, "image/png"),
            "batch_predict": batch(reference, key, 8),
        }
        slow = {
            "tta": predict(reference, key, path="/predict?tta=true", tolerance=np.inf),
            "smoothgradcam++": predict(reference, key, path="/gradcam?method=smoothgradcam%2B%2B", tolerance=1e-3),
            "scorecam": predict(reference, key, path="/gradcam?method=scorecam"),
        }
        medians = _in_turn(report, server, asked, profile.latency)
        medians |= _in_turn(report, server, _offered(report, server, slow), max(_ROUNDS, profile.latency // 10))
        for name, value in medians.items():
            if name != "predict":
                report.ratio(f"{name}/predict", value / medians["predict"])
        for name in ("gradcam", "gradcam_jpeg", "gradcam_png"):
            report.ratio(f"{name}/predict_images_per_second", medians["predict"] / medians[name])


def _in_turn(report: Report, target: Target, asked: dict[str, Question], requests: int) -> dict[str, float]:
    """Median milliseconds per film of each question."""
    seen: dict[str, list[Measured]] = {name: [] for name in asked}
    for _ in range(_ROUNDS):
        for name, question in asked.items():
            each = max(2, requests // _ROUNDS // question.films)
            seen[name].append(
                closed_loop(target, "", question, connections=1, seconds=120, requests=each, conditions=STRICT)
            )
    medians = {}
    for name, rows in seen.items():
        films, wrong = asked[name].films, sum(row.answers.wrong + row.errors for row in rows)
        p50 = statistics.median(row.latency.p50 for row in rows)
        medians[name] = float("nan") if wrong else p50 / films
        report.fact(
            f"{asked[name].name}, concurrency 1, p50 of {sum(row.answered for row in rows)}",
            f"{p50:.1f} ms, {statistics.median(row.cpu_ms for row in rows):.1f} CPU-ms"
            + (" a film" if films > 1 else "")
            + (f", {wrong} WRONG OR FAILED" if wrong else ""),
        )
    return medians


def _offered(report: Report, target: Target, asked: dict[str, Question]) -> dict[str, Question]:
    """Those that the service answers; what it does not offer is said."""
    found = {}
    for name, question in asked.items():
        row = closed_loop(target, "", question, connections=1, seconds=60, requests=1, conditions=STRICT)
        if row.answered:
            found[name] = question
        else:
            report.fact(question.name, "not offered")
    return found


def formats(report: Report, root: Path, reference: Reference, profile: Profile, name: str) -> None:
    """/predict by format and size of the film, at as many connections as keep the cores busy."""
    with serving(bundles_dir=root, engine=REFERENCE_VARIANT, rate_limit_per_minute=UNLIMITED) as server:
        key = server.key("service")
        for form, px in profile.formats:
            question = predict(reference, key, form=form, px=px)
            report.row(closed_loop(server, name, question, connections=4, seconds=profile.seconds, conditions=STRICT))
        many = batch(reference, key, 8)
        report.row(closed_loop(server, name, many, connections=2, seconds=profile.seconds, conditions=STRICT))


def identity(report: Report, folder: Path, profile: Profile) -> None:
    """What a request costs beside its network; what the audit trail adds, in rounds with and without; the same on a slow disk."""
    root = folder / "identity"
    reference = Reference.of(root, kept(root, identity_network))
    least = floor(root, reference.bundle.ref, profile.seconds / 2, REFERENCE_VARIANT)
    report.fact(
        "identity network, in process: decode and preprocessing",
        f"{least.per_s:.0f} images/s, {least.cpu_ms:.2f} CPU-ms",
    )
    audited: list[float] = []
    unaudited: list[float] = []
    per_s: list[float] = []
    for _ in range(profile.rounds):
        for command, into in ((SERVE, audited), (UNAUDITED, unaudited)):
            row = _identity_row(root, reference, profile, command)
            into.append(row.cpu_ms if row.sound else float("nan"))
            if command is SERVE:
                per_s.append(row.per_s)
    shown = _identity_row(root, reference, profile, SERVE, seconds=profile.seconds)
    report.row(replace(shown, subject="this service, identity network"))
    with_audit, without = float(np.median(audited)), float(np.median(unaudited))
    report.fact(
        "a request without a network: CPU beside decode and preprocessing",
        f"{with_audit - least.cpu_ms:.2f} CPU-ms, {statistics.median(per_s):.0f} images/s",
    )
    report.fact(
        f"audit trail, {profile.rounds} rounds with and without", f"{with_audit - without:+.2f} CPU-ms a request"
    )
    report.data["audit"] = {"with_cpu_ms": audited, "without_cpu_ms": unaudited}
    report.ratio("audit/request without a network", (with_audit - without) / without)
    _slow(report, root, reference, profile, folder)


def audit_share(report: Report, who: str, cpu_ms: float) -> None:
    """What the trail adds to a request with a network. cpu_ms: of that request, trail included."""
    audit = report.data["audit"]
    added = float(np.median(audit["with_cpu_ms"]) - np.median(audit["without_cpu_ms"]))
    report.ratio(f"audit/request ({who})", added / (cpu_ms - added))


def _identity_row(
    root: Path,
    reference: Reference,
    profile: Profile,
    command: tuple[str, ...],
    environment: dict[str, str] | None = None,
    seconds: float | None = None,
) -> Measured:
    """seconds: default a third of the profile's; a row that is shown has them all."""
    subject = service(
        "this service", root, reference, engine=REFERENCE_VARIANT, command=command, environment=environment,
        ask=lambda key: predict(reference, key),
    )  # fmt: skip
    with subject.start() as started:
        closed_loop(started.target, "", started.question, connections=BUSY, seconds=20, requests=50, conditions=STRICT)
        return closed_loop(
            started.target,
            subject.name,
            started.question,
            connections=BUSY,
            seconds=seconds or max(profile.seconds / 3, 3),
            conditions=STRICT,
        )


def _slow(report: Report, root: Path, reference: Reference, profile: Profile, folder: Path) -> None:
    """Group commit under test: with one commit per request a disk of 5 ms would allow 200 of them a second."""
    environment = slow_disk(folder, SLOW_MS)
    name = f"{SLOW_MS:g} ms fsync"
    if environment is None:
        report.fact(name, "not measured: no C compiler")
        return
    slow = _identity_row(root, reference, profile, SERVE, environment, seconds=profile.seconds)
    row = report.row(replace(slow, subject=f"identity, {name}"))
    quick = next(r for r in reversed(report.rows) if r.subject == "this service, identity network")
    report.ratio(f"{name}/this disk, images per second", row.per_s / quick.per_s)


def shipped_speed(report: Report, root: Path, reference: Reference, profile: Profile) -> None:
    """The bundle that ships, with its gate: by the reference engine and by the one that the service chooses."""
    ref: BundleRef = reference.bundle.ref
    least = floor(root, ref, profile.seconds / 2, REFERENCE_VARIANT)
    report.fact(
        f"{ref}: floor in process, {REFERENCE_VARIANT}, no gate",
        f"{least.per_s:.1f} images/s, {least.cpu_ms:.1f} CPU-ms",
    )
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        with service("", root, reference, engine="auto", state=state).start() as started:
            chosen = engine_of_answer(started)
        for name, engine, judge in (("fp32", REFERENCE_VARIANT, REFERENCE_VARIANT), ("default", "auto", chosen)):
            subject = service(
                f"{ref.name.removesuffix(SUFFIX)}, {name}",
                root,
                Reference.of(root, ref, judge),
                engine=engine,
                state=state,
            )
            with subject.start() as started:
                row = closed_loop(
                    started.target,
                    subject.name,
                    started.question,
                    connections=BUSY,
                    seconds=profile.seconds,
                    conditions=STRICT,
                )
            report.row(row)
            report.ratio(f"{subject.name} ({judge}): images/s at concurrency {BUSY}", row.per_s)
