"""`python -m benchmarks.soak`: days of work in minutes. Does anything grow with the number of requests?

At least 100,000 small requests (four days of a hospital with 25,000 films a day) to one process with the identity network, in windows;
after each its memory, open files and threads are read, and the window's median latency and CPU. What rises by more than its limit over
the run (robust slope, the first part left out) has grown. Then the same look at a service with planted faults, a leak of memory, of
files and of time: the soak passes only if it finds all of them. Exit status 1 where something grew, or a planted fault was missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.settings import PROJECT_ROOT
from benchmarks import processes
from benchmarks.bundles import identity_network, kept
from benchmarks.laws import Growth, growth
from benchmarks.load import closed_loop
from benchmarks.profile import STRICT
from benchmarks.questions import Reference, predict
from benchmarks.readme import write_block
from benchmarks.report import Report
from benchmarks.server import SERVE, serving
from benchmarks.subjects import UNLIMITED

PLANTED: Final = (sys.executable, "-m", "benchmarks.planted")
FILM_PX: Final = 160
CONNECTIONS: Final = 8
WARM: Final = 0.3  # share of the run in which pools, arenas and the database's cache may fill
MIB: Final = 2**20
# largest rise over the run that is no growth: allocators and the kernel move by this much on their own
MEMORY_MIB, FILES, THREADS, LATENCY = 12.0, 3.0, 1.0, 0.35
CONTROL: Final = 0.2  # of the requests go to the planted service
EXCESS: Final = 4.0  # each planted fault is so many times its limit


@dataclass(frozen=True)
class Window:
    """After so many requests: resident MiB, files, threads, median milliseconds, CPU milliseconds a request."""

    requests: int
    memory: float
    files: float
    threads: float
    latency: float
    cpu: float


def soak(root: Path, reference: Reference, requests: int, windows: int, plant: dict[str, float] | None) -> list[Window]:
    """Send the requests and look after each window.

    Raises:
        RuntimeError: a request failed, or was answered wrongly.
    """
    seen: list[Window] = []
    environment = None if plant is None else {"CXR_BENCH_PLANT": json.dumps(plant)}
    command = SERVE if plant is None else PLANTED
    settings: dict[str, Any] = {"bundles_dir": root, "engine": "onnxruntime-fp32", "rate_limit_per_minute": UNLIMITED}
    with serving(command=command, environment=environment, **settings) as server:
        question, each = predict(reference, server.key("service"), px=FILM_PX), requests // windows
        for i in range(windows):
            row = closed_loop(
                server, "", question, connections=CONNECTIONS, seconds=3_600, requests=each, conditions=STRICT
            )
            if row.errors or row.refused or row.answers.wrong:
                raise RuntimeError(
                    f"window {i}: {row.errors} errors, {row.refused} refused, {row.answers.wrong} wrong\n{server.log()[-2000:]}"
                )
            window = Window(
                requests=each * (i + 1),
                memory=processes.rss_bytes(server.pid) / MIB,
                files=processes.open_files(server.pid),
                threads=processes.threads(server.pid),
                latency=row.latency.p50,
                cpu=row.cpu_ms,
            )
            seen.append(window)
            print(
                f"{window.requests:>9,} requests  {window.memory:7.1f} MiB  {window.files:3.0f} files  {window.threads:3.0f} threads  "
                f"p50 {window.latency:6.2f} ms  {window.cpu:5.2f} CPU-ms",
                flush=True,
            )
    return seen


def verdicts(windows: Sequence[Window]) -> list[Growth]:
    """What each quantity did. Latency and CPU may rise by a share of what they were."""
    at = [float(w.requests) for w in windows]
    first = windows[int(WARM * len(windows))]

    def of(name: str, unit: str, limit: float) -> Growth:
        return growth(name, unit, at, [getattr(w, name) for w in windows], warm=WARM, limit=limit)

    return [
        of("memory", "MiB", MEMORY_MIB),
        of("files", "files", FILES),
        of("threads", "threads", THREADS),
        of("latency", "ms", LATENCY * first.latency),
        of("cpu", "CPU-ms", LATENCY * first.cpu),
    ]


def control(root: Path, reference: Reference, requests: int, windows: int, latency_ms: float) -> list[Growth]:
    """The verdicts on a service whose memory, files and latency grow EXCESS times their limits over these requests."""
    counted = requests * (1 - WARM)
    plant = {
        "bytes": EXCESS * MEMORY_MIB * MIB / counted,
        "requests_per_file": max(1, int(counted / (EXCESS * FILES))),
        "slower_us": EXCESS * LATENCY * latency_ms * 1e3 / counted,
    }
    return verdicts(soak(root, reference, requests, windows, plant))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=120_000)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="2,000 requests: does it run at all?")
    parser.add_argument("--no-readme", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.requests, options.windows = 2_000, 10
    processes.end_children_when_ended()
    report = Report("quick" if options.quick else "full", processes.quiet_share())
    with tempfile.TemporaryDirectory(prefix="cxr-soak-") as name:
        root = Path(name) / "identity"
        reference = Reference.of(root, kept(root, identity_network))
        windows = soak(root, reference, options.requests, options.windows, None)
        found = verdicts(windows)
        print("with planted faults:", flush=True)
        share = options.requests if options.quick else int(options.requests * CONTROL)
        planted = control(root, reference, share, max(10, options.windows // 4), found[3].begin)
    sys.exit(_tell(report, options, windows, found, planted))


def _tell(
    report: Report, options: argparse.Namespace, windows: list[Window], found: list[Growth], planted: list[Growth]
) -> int:
    """Write what was found; the exit status."""
    report.data["windows"] = [w.__dict__ for w in windows]
    report.fact("requests", f"{windows[-1].requests:,} in {len(windows)} windows, {CONNECTIONS} connections")
    for one in found:
        report.fact(f"soak, {one.name}", str(one))
    for one in planted:
        report.fact(f"planted, {one.name}", str(one))
    for one in found:
        report.ratio(f"soak/{one.name} end/begin", one.end / one.begin)
    missed = [one.name for one in planted if one.name in {"memory", "files", "latency"} and not one.grew]
    grew = [one.name for one in found if one.grew]
    report.fact("planted faults found", "all" if not missed else f"MISSED: {', '.join(missed)}")
    report.write_json(PROJECT_ROOT / "benchmarks" / "results" / "soak.json")
    if not options.no_readme:
        write_block("figures:soak", report.markdown("python -m benchmarks.soak"))
    report.print_ratios()
    return 1 if grew or missed else 0


if __name__ == "__main__":
    main()
