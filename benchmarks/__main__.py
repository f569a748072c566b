"""`make bench`: the figures in the README, measured side by side in one run on this machine.

Films are generated phantoms (1,024 px JPEG); the bundle is the one that ships; the audit trail is on and durable. Prints a table,
one line `ratio <name>: <number>` per ratio, and writes both between the markers of README.md (unless --no-readme).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from app.bundle.store import BundleStore
from app.imaging.decode import ImageLimits, decode, limit_threads
from app.imaging.phantom import encode_jpeg, phantom
from app.inference.cores import usable_cores
from app.inference.engine import OnnxRuntimeEngine
from app.inference.runtime import onnxruntime
from app.preprocessing import prepare
from app.settings import PROJECT_ROOT
from benchmarks.load import Load, closed_loop
from benchmarks.phantoms_pass import phantoms_pass
from benchmarks.readme import write_block
from benchmarks.server import Server, serving

FILM_PX = 1_024


class Report:
    """Rows of the table and ratios, printed as they come."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.ratios: list[tuple[str, float]] = []

    def row(self, name: str, value: str) -> None:
        self.rows.append((name, value))
        print(f"{name:<58} {value}", flush=True)

    def ratio(self, name: str, value: float) -> None:
        self.ratios.append((name, value))

    def markdown(self) -> str:
        machine = f"{usable_cores()} cores, {platform.machine()}, onnxruntime {onnxruntime.__version__}"
        films = f"{FILM_PX} px JPEG phantoms; the bundle that ships, its gate warning where it would refuse"
        head = f"Measured by `make bench` on {datetime.now(UTC):%Y-%m-%d} ({machine}; films: {films}).\n"
        table = ["| what | figure |", "|---|---|", *(f"| {a} | {b} |" for a, b in self.rows)]
        table += [f"| ratio {name} | {value:.3f} |" for name, value in self.ratios]
        return "\n".join([head, *table])


def floor(films: list[bytes], bundles: Path, seconds_at_least: float = 8.0) -> tuple[float, float]:
    """Decode + preprocess + network in this process on all cores, no gate, HTTP or audit: (films per second, CPU ms per film)."""
    limit_threads()
    store = BundleStore(bundles)
    ref = store.latest()
    if ref is None:
        raise SystemExit("no bundle ships in model_bundles/")
    bundle = store.verify(ref)
    engine = OnnxRuntimeEngine(bundle.network)
    limits = ImageLimits(128, 4096)

    def one(i: int) -> None:
        engine.run(prepare(decode(films[i % len(films)], limits), bundle.manifest.input).tensor)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(one, range(16)))
        cpu, start, done = time.process_time(), time.perf_counter(), 0
        while time.perf_counter() - start < seconds_at_least:
            list(pool.map(one, range(64)))
            done += 64
        took = time.perf_counter() - start
    return done / took, (time.process_time() - cpu) / done * 1e3


def startup(report: Report, bundles: Path, runs: int = 5) -> None:
    """Start to ready from an existing state folder, golden self-test included; idle memory."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        with serving(state, bundles_dir=bundles) as first:
            report.row("first start to ready (makes database, key ring, admin key)", f"{first.started_in_s:.2f} s")
        times, rss = [], 0
        for _ in range(runs):
            with serving(state, bundles_dir=bundles) as server:
                times.append(server.started_in_s)
                time.sleep(1)
                rss = server.rss_bytes()
    report.row(f"start to ready, median of {runs}, golden self-test included", f"{statistics.median(times):.2f} s")
    report.row("idle resident memory", f"{rss / 2**20:.0f} MiB")


def _describe(load: Load) -> str:
    p50, p95, p99 = (load.percentile_ms(q) for q in (50, 95, 99))
    errors = sum(n for status, n in load.statuses.items() if status != 200)
    cpu = load.server_cpu_s / max(1, len(load.latencies_s)) * 1e3
    return (
        f"{load.per_second:.1f}/s, p50 {p50:.1f} p95 {p95:.1f} p99 {p99:.1f} ms, {cpu:.1f} CPU-ms each, {errors} errors"
    )


def latency(report: Report, server: Server, key: str, films: list[bytes], requests: int) -> None:
    """Concurrency 1, the routes taken in turn in rounds, so that a noisy moment falls on all of them."""
    routes = {
        "/predict": ("/predict", "application/json"),
        "/gradcam as JSON": ("/gradcam", "application/json"),
        "/gradcam as JPEG": ("/gradcam", "image/jpeg"),
        "/gradcam as PNG": ("/gradcam", "image/png"),
    }
    seen: dict[str, list[float]] = {name: [] for name in routes}
    rounds = 5
    for _ in range(rounds):
        for name, (path, accept) in routes.items():
            load = closed_loop(server, path, films, key=key, connections=1, requests=requests // rounds, accept=accept)
            seen[name] += load.latencies_s
    medians = {name: statistics.median(times) * 1e3 for name, times in seen.items()}
    for name, value in medians.items():
        report.row(f"{name}, concurrency 1, p50 of {len(seen[name])}", f"{value:.1f} ms")
    for suffix in ("JSON", "JPEG", "PNG"):
        ratio = medians[f"/gradcam as {suffix}"] / medians["/predict"]
        report.ratio("gradcam/predict" if suffix == "JSON" else f"gradcam_{suffix.lower()}/predict", ratio)


def busy_health(report: Report, server: Server, key: str, film: bytes, seconds: float = 6.0) -> None:
    """/health/ready while every worker is busy and the queue is full. The load comes from a process of its own: 48 clients, which
    wait 50 ms after a refusal instead of the second they are told to."""
    load = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.flood", str(server.port), key, str(seconds + 2)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert load.stdin is not None
    load.stdin.write(film)
    load.stdin.close()
    time.sleep(2)
    times = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        reply = server.request("GET", "/health/ready")
        times.append((time.perf_counter() - start) * 1e3)
        if reply.status != 200:
            raise RuntimeError(f"/health/ready answered {reply.status} under load")
        time.sleep(0.02)
    assert load.stdout is not None
    statuses = json.loads(load.stdout.read())
    load.wait()
    if not statuses.get("503"):
        raise RuntimeError("the queue was never full; the figure would mean nothing")
    report.row(
        f"/health/ready with a full queue ({statuses['503']} refused, {statuses.get('200', 0)} answered meanwhile)",
        f"of {len(times)}: p50 {statistics.median(times):.1f}, worst {max(times):.1f} ms",
    )


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests: does it run at all?")
    parser.add_argument("--no-readme", action="store_true", help="print only")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="cxr-bundles-") as folder:
        phantoms_pass(PROJECT_ROOT / "model_bundles", Path(folder))
        measure(report, Path(folder), quick=options.quick)
    if not options.no_readme:
        write_block("figures:bench", report.markdown())
    for name, value in report.ratios:
        print(f"ratio {name}: {value:.3f}")


def measure(report: Report, bundles: Path, *, quick: bool) -> None:
    requests = 60 if quick else 600
    films = [encode_jpeg(phantom(seed, height=FILM_PX, width=FILM_PX)) for seed in range(8)]
    report.row("film", f"{FILM_PX} x {FILM_PX} px JPEG, {sum(map(len, films)) / len(films) / 1e3:.0f} kB")
    startup(report, bundles, runs=2 if quick else 5)
    floor_rate, floor_cpu = floor(films, bundles, 2 if quick else 10)
    report.row(
        "floor: decode + preprocess + network in process, all cores", f"{floor_rate:.1f}/s, {floor_cpu:.1f} CPU-ms each"
    )
    with serving(bundles_dir=bundles, rate_limit_per_minute=10_000_000) as server:
        report.row("median fdatasync of the state folder", f"{fsync_ms(server.state):.2f} ms")
        key = server.key("service")
        closed_loop(server, "/predict", films, key=key, connections=4, requests=40)
        latency(report, server, key, films, requests)
        for connections in (4, 16):
            load = closed_loop(server, "/predict", films, key=key, connections=connections, requests=requests)
            report.row(f"/predict, concurrency {connections}, audit durable", _describe(load))
        cpu_each = load.server_cpu_s / len(load.latencies_s) * 1e3
        report.ratio("service/floor", floor_cpu / cpu_each)
        report.ratio("service/floor_images_per_second", load.per_second / floor_rate)
        busy_health(report, server, key, films[0])
        report.row("peak resident memory after all this", f"{server.peak_rss_bytes() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
