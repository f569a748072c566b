"""`make bench`: the figures in the README, measured side by side in one run on this machine.

Parts: start (of the service), compare (floor, this service and the servers that its users would otherwise pick), identity (cost without
a network, of the audit trail, on a slow disk), routes, formats, shipped (the bundle that ships). Films are generated phantoms; the
network of the comparison is DenseNet-121 with untrained weights. Prints each figure as it comes and one line `ratio <name>: <number>`
per ratio at the end; writes JSON, a table and a picture, and the block between the markers of README.md (unless --no-readme).
A row is called VALID only where it ran long enough, without errors, and every answer was the reference's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Final

from app.settings import PROJECT_ROOT
from benchmarks import comparison, parts
from benchmarks.competitors import environment
from benchmarks.plot import draw
from benchmarks.processes import end_children_when_ended, quiet_share
from benchmarks.profile import FULL, QUICK, Profile
from benchmarks.readme import write_block
from benchmarks.report import Report

PARTS: Final = ("start", "compare", "identity", "routes", "formats", "shipped")
AUDITED: Final = (comparison.SAME, comparison.DEFAULT, *(f"pneumonia-resnet18, {way}" for way in ("fp32", "default")))
RESULTS: Final = PROJECT_ROOT / "benchmarks" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="minutes: does it run at all? No row of it is VALID")
    parser.add_argument(
        "--no-readme",
        action="store_true",
        help="write JSON and picture, leave README.md alone; so does a run that is quick or has not all parts",
    )
    parser.add_argument("--no-others", action="store_true", help="without the other servers (and their 1.4 GB)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for bench.json and bench.svg")
    parser.add_argument(
        "--work", type=Path, help="folder for bundles and databases, kept and used again; default: temporary"
    )
    options = parser.parse_args()
    profile = QUICK if options.quick else FULL
    end_children_when_ended()
    report = Report(profile.name, quiet_share())
    whole = not (options.quick or options.no_others) and set(options.parts) == set(PARTS)
    if not options.no_others and "compare" in options.parts:
        environment.python()  # before anything is measured: what cannot be installed here says so at once
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as temporary:
        folder = options.work or Path(temporary)
        try:
            measure(report, folder, profile, options.parts, others=not options.no_others)
        finally:  # what was measured is kept whatever happens
            report.write_json(options.results / "bench.json")
    finish(report, options.results, readme=whole and not options.no_readme)


def measure(report: Report, folder: Path, profile: Profile, wanted: list[str], *, others: bool) -> None:
    if {"start", "shipped"} & set(wanted):
        ships, of_shipped = parts.shipped(folder / "shipped")
        if "start" in wanted:
            parts.startup(report, ships, runs=5 if profile.name == "full" else 1)
        if "shipped" in wanted:
            parts.shipped_speed(report, ships, of_shipped, profile)
    if "identity" in wanted:
        parts.identity(report, folder, profile)
    if {"compare", "routes", "formats"} & set(wanted):
        bench = comparison.prepare(folder)
        if "compare" in wanted:
            comparison.compare(report, bench, profile, others=others)
        if "routes" in wanted:
            parts.routes(report, bench.root, bench.reference, profile)
        if "formats" in wanted:
            parts.formats(report, bench.root, bench.reference, profile, comparison.SAME)
    for row in report.rows:
        if "audit" in report.data and row.load == f"closed {comparison.JUDGED_AT}" and row.subject in AUDITED:
            parts.audit_share(report, row.subject, row.cpu_ms)


def finish(report: Report, results: Path, *, readme: bool) -> None:
    """Picture, README, and the ratios as the last lines."""
    floors = {entry["engine"]: entry["per_s"] for entry in report.data.get("floors", []) if entry["engine"] != "none"}
    draw(report.rows, floors, results / "bench.svg")
    if readme:
        picture = os.path.relpath(results / "bench.svg", PROJECT_ROOT)
        write_block("figures:bench", report.markdown("make bench", [picture]))
    report.print_ratios()


if __name__ == "__main__":
    main()
