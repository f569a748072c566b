"""`python -m benchmarks.growth`: how time and memory grow with what a hospital has more of every year.

Image size, films in a batch, rows of the audit trail (10^3 to 10^7, synthetic), API keys, predictions in a drift window. The service
runs with the identity network, so that nothing hides behind a network's arithmetic. Each axis ends with the exponent b of
cost = a * size^b (0 constant, 1 linear) and a line `ratio growth/<axis>: <number>`: the cost at the largest size over that at the
smallest; of what grows by nature, per unit (megapixels, films, rows).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.bundle.store import BundleRef
from app.records import Records, new_key_text
from app.records.verify import verify
from app.settings import PROJECT_ROOT, Settings
from benchmarks import processes
from benchmarks.bundles import identity_network, kept
from benchmarks.films import films
from benchmarks.laws import exponent
from benchmarks.load import Target, closed_loop
from benchmarks.outcome import Percentiles
from benchmarks.profile import STRICT
from benchmarks.questions import Reference, batch, predict
from benchmarks.readme import write_block
from benchmarks.report import Report
from benchmarks.server import Server, serving
from benchmarks.subjects import UNLIMITED
from benchmarks.synthetic_records import FILMS_PER_PATIENT, PATIENT, STEP_S, Trail

AXES: Final = ("image", "batch", "rows", "keys", "window")
MIB: Final = 2**20
VERIFY_MAX: Final = 1_000_000  # `cxr audit verify` is linear; larger trails are not walked here


@dataclass(frozen=True)
class Sizes:
    image: tuple[int, ...]
    batch: tuple[int, ...]
    rows: tuple[int, ...]
    keys: tuple[int, ...]
    window: tuple[int, ...]
    requests: int


FULL: Final = Sizes(
    image=(256, 512, 1_024, 2_048, 4_096),
    batch=(1, 2, 4, 8),
    rows=tuple(10**k for k in range(3, 8)),
    keys=(1, 10, 100, 1_000, 10_000),
    window=(500, 1_000, 2_000, 5_000, 10_000, 20_000),
    requests=300,
)
QUICK: Final = Sizes((256, 1_024), (1, 8), (1_000, 10_000), (1, 100), (500, 5_000), 30)


@dataclass(frozen=True)
class Ground:
    """The identity bundle on disk, and a folder to work in."""

    root: Path
    reference: Reference
    folder: Path
    report: Report

    def serving(self, state: Path | None = None) -> Any:
        return serving(state, bundles_dir=self.root, engine="onnxruntime-fp32", rate_limit_per_minute=UNLIMITED)

    def law(self, axis: str, sizes: list[float], costs: list[float], unit: str, *, per_unit: bool = False) -> None:
        """Exponent and ratio of one axis."""
        self.report.data.setdefault("growth", {})[axis] = {"sizes": sizes, "costs": costs, "unit": unit}
        if len(sizes) < 2:
            return
        self.report.fact(f"growth of {axis}: exponent b of {unit} = a * size^b", f"{exponent(sizes, costs):.3f}")
        scale = sizes[-1] / sizes[0] if per_unit else 1.0
        self.report.ratio(f"growth/{axis}{' per unit' if per_unit else ''}", costs[-1] / costs[0] / scale)


def image(ground: Ground, sizes: Sizes) -> None:
    """JPEGs by their side: CPU per film and the highest memory, one film at a time."""
    costs, peaks = [], []
    with ground.serving() as server:
        key = server.key("service")
        for px in sizes.image:
            processes.forget_peak(server.pid)
            row = _one_by_one(server, predict(ground.reference, key, px=px), sizes.requests)
            peak = processes.peak_rss_bytes(server.pid) / MIB
            ground.report.fact(
                f"/predict JPEG {px:,} px ({len(films('jpeg', px, 1)[0]) / 1e3:.0f} kB)",
                f"p50 {row.latency.p50:.1f} p99 {row.latency.p99:.1f} ms, {row.cpu_ms:.2f} CPU-ms, peak {peak:.0f} MiB",
            )
            costs.append(row.cpu_ms)
            peaks.append(peak)
    pixels = [float(px * px) for px in sizes.image]
    ground.law("pixels of a film", pixels, costs, "CPU-ms", per_unit=True)
    ground.law("pixels of a film, memory", pixels, peaks, "MiB")


def batch_size(ground: Ground, sizes: Sizes) -> None:
    """Films in one /batch_predict: time per request and memory."""
    costs = []
    with ground.serving() as server:
        key = server.key("service")
        for count in sizes.batch:
            processes.forget_peak(server.pid)
            row = _one_by_one(server, batch(ground.reference, key, count), max(8, sizes.requests // count))
            peak = processes.peak_rss_bytes(server.pid) / MIB
            ground.report.fact(
                f"/batch_predict of {count} JPEG 1,024 px",
                f"p50 {row.latency.p50:.1f} ms, {row.cpu_ms:.2f} CPU-ms a film, peak {peak:.0f} MiB",
            )
            costs.append(row.cpu_ms * count)
    ground.law("films in a batch", [float(n) for n in sizes.batch], costs, "CPU-ms", per_unit=True)


def rows(ground: Ground, sizes: Sizes) -> None:
    """The same database as it grows: start, an answer, a look-up of a patient, a drift report, memory."""
    state = ground.folder / "rows"
    trail = Trail(Settings(state_dir=state), ground.reference.bundle.digest)
    seen: dict[str, list[float]] = {name: [] for name in ("start", "predict", "find", "drift", "memory")}
    done = []
    for count in sizes.rows:
        begun = time.perf_counter()
        try:
            trail.grow(count)
        except OSError as error:
            ground.report.fact(f"audit rows {count:,}", f"not measured: {error}")
            break
        wrote = time.perf_counter() - begun
        done.append(float(count))
        with ground.serving(state) as server:
            for name, value in _with_rows(ground, server, count, sizes.requests).items():
                seen[name].append(value)
        last = {name: values[-1] for name, values in seen.items()}
        ground.report.fact(
            f"audit rows {count:,} ({trail.path.stat().st_size / 1e9:.2f} GB, written in {wrote:.0f} s)",
            f"start {last['start']:.2f} s, /predict p50 {last['predict']:.2f} ms, films of a patient {last['find']:.2f} ms, "
            f"/drift_report {last['drift']:.0f} ms, resident {last['memory']:.0f} MiB",
        )
        _verified(ground, state, count)
    units = {"start": "s", "predict": "ms", "find": "ms", "drift": "ms", "memory": "MiB"}
    for name, values in seen.items():
        ground.law(f"audit rows, {name}", done, values, units[name])


def _with_rows(ground: Ground, server: Server, count: int, requests: int) -> dict[str, float]:
    row = _one_by_one(server, predict(ground.reference, server.key("service"), px=256), requests)
    middle = PATIENT.format(count // FILMS_PER_PATIENT // 2)
    records = Records.open(Settings(state_dir=server.state), role="cli")
    try:
        find = _median_ms(lambda: _found(records, middle), 9)
    finally:
        records.close()
    admin = server.key("admin")
    hours = min(count * STEP_S / 3_600, 24.0 * 7)  # what a week holds, as far as the trail reaches
    drift = _median_ms(lambda: _drift(server, admin, hours), 5)
    return {
        "start": server.started_in_s,
        "predict": row.latency.p50,
        "find": find,
        "drift": drift,
        "memory": processes.own_rss_bytes(server.pid) / MIB,
    }


def _found(records: Records, patient: str) -> None:
    if not records.find_films("patient", "", patient):
        raise RuntimeError(f"the trail holds nothing of {patient}; the figure would mean nothing")


def _drift(server: Server, key: str, hours: float) -> None:
    window = f"PT{max(1, math.ceil(hours * 60))}M"
    reply = server.request("GET", f"/drift_report?window={window}", key=key, Accept="application/json")
    if reply.status != 200:
        raise RuntimeError(f"/drift_report answered {reply.status}: {reply.body[:300]!r}")


def _verified(ground: Ground, state: Path, count: int) -> None:
    if count > VERIFY_MAX:
        return
    begun = time.perf_counter()
    report = verify(Settings(state_dir=state))
    took = time.perf_counter() - begun
    if not report.ok:
        raise RuntimeError(f"the synthetic trail is not whole: {report.problems[0]}")
    ground.report.fact(f"cxr audit verify of {count:,} rows", f"{took:.1f} s, {report.events / took:,.0f} events/s")


def keys(ground: Ground, sizes: Sizes) -> None:
    """API keys in the database: start, a request, memory."""
    state = ground.folder / "keys"
    costs, starts, made = [], [], 0
    for count in sizes.keys:
        listing = ground.folder / "keys.txt"
        listing.write_text("".join(f"service bench-{i} {new_key_text()}\n" for i in range(made, count)))
        records = Records.open(Settings(state_dir=state), role="cli")
        try:
            made += records.keys.import_file(listing)
        finally:
            records.close()
        with ground.serving(state) as server:
            row = _one_by_one(server, predict(ground.reference, server.key("service"), px=256), sizes.requests)
            memory = processes.own_rss_bytes(server.pid) / MIB
            starts.append(server.started_in_s)
        costs.append(row.latency.p50)
        ground.report.fact(
            f"API keys {count:,}",
            f"start {starts[-1]:.2f} s, /predict p50 {row.latency.p50:.2f} ms, {row.cpu_ms:.2f} CPU-ms, resident {memory:.0f} MiB",
        )
    ground.law("API keys, predict", [float(n) for n in sizes.keys], costs, "ms")
    ground.law("API keys, start", [float(n) for n in sizes.keys], starts, "s")


def window(ground: Ground, sizes: Sizes) -> None:
    """Predictions in the window of one drift report."""
    state = ground.folder / "window"
    trail = Trail(Settings(state_dir=state), ground.reference.bundle.digest)
    trail.grow(max(sizes.window))
    written = time.time()
    costs = []
    with ground.serving(state) as server:
        admin = server.key("admin")
        for count in sizes.window:
            processes.forget_peak(server.pid)
            # in the seconds since the newest synthetic film nobody asked, so the window reaches back by that much more
            hours = (count * STEP_S + time.time() - written) / 3_600
            took = _median_ms(partial(_drift, server, admin, hours), 5)
            costs.append(took)
            peak = processes.peak_rss_bytes(server.pid) / MIB
            ground.report.fact(f"/drift_report over {count:,} predictions", f"{took:.0f} ms, peak {peak:.0f} MiB")
    ground.law("predictions in a drift window", [float(n) for n in sizes.window], costs, "ms", per_unit=True)


def _one_by_one(target: Target, question: Any, requests: int) -> Any:
    closed_loop(target, "", question, connections=1, seconds=60, requests=8, conditions=STRICT)
    row = closed_loop(target, "", question, connections=1, seconds=300, requests=requests, conditions=STRICT)
    if row.errors or row.refused or row.answers.wrong:
        raise RuntimeError(f"{question.name}: {row.errors} errors, {row.refused} refused, {row.answers.wrong} wrong")
    return row


def _median_ms(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return Percentiles.of(np.array(taken)).p50


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two small sizes of each")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=AXES)
    parser.add_argument("--rows-max", type=int, default=10**7, help="largest audit trail; 10^7 rows need 45 GB")
    parser.add_argument("--folder", type=Path, help="where the databases lie; default: a temporary folder")
    parser.add_argument("--no-readme", action="store_true")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    sizes = Sizes(**{**sizes.__dict__, "rows": tuple(n for n in sizes.rows if n <= options.rows_max)})
    processes.end_children_when_ended()
    report = Report("quick" if options.quick else "full", processes.quiet_share())
    run = {"image": image, "batch": batch_size, "rows": rows, "keys": keys, "window": window}
    with tempfile.TemporaryDirectory(prefix="cxr-growth-", dir=options.folder) as name:
        folder = Path(name)
        ref: BundleRef = kept(folder / "identity", identity_network)
        ground = Ground(folder / "identity", Reference.of(folder / "identity", ref), folder, report)
        for axis in options.axes:
            run[axis](ground, sizes)
    report.write_json(PROJECT_ROOT / "benchmarks" / "results" / "growth.json")
    if not options.no_readme:
        write_block("figures:growth", report.markdown("python -m benchmarks.growth"))
    report.print_ratios()


if __name__ == "__main__":
    main()
