"""What a run found: printed as it comes, kept as JSON, and told as Markdown between the markers of the README."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from app.inference.cores import usable_cores
from benchmarks.outcome import Measured, Percentiles, finite

LIBRARIES: Final = ("onnxruntime", "openvino", "torch", "uvicorn", "numpy")


@dataclass
class Report:
    """profile: its name; quiet: share of the machine that was idle before the run began."""

    profile: str
    quiet: float
    rows: list[Measured] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    ratios: list[tuple[str, float]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def row(self, row: Measured) -> Measured:
        self.rows.append(row)
        print(line(row), flush=True)
        return row

    def fact(self, name: str, value: str) -> None:
        self.facts.append((name, value))
        print(f"{name:<72} {value}", flush=True)

    def ratio(self, name: str, value: float) -> None:
        self.ratios.append((name, value))
        print(f"{'ratio ' + name:<72} {value:.3f}", flush=True)

    @property
    def machine(self) -> str:
        return f"{cpu_model()}, {usable_cores()} cores, {', '.join(_versions(LIBRARIES))}"

    def as_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": self.machine,
            "idle_before": round(self.quiet, 3),
            "facts": dict(self.facts),
            "ratios": dict(self.ratios),
            "rows": [row.as_json() for row in self.rows],
            **self.data,
        }

    def write_json(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(finite(self.as_json()), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def markdown(self, command: str, plots: Iterable[str] = ()) -> str:
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        head = (
            f"Measured by `{command}` on {day} ({self.machine}; {self.quiet:.0%} of the machine idle before the run)."
        )
        parts = [head, *(f"![{Path(path).stem}]({path})" for path in plots)]
        if self.rows:
            parts.append(_table(self.rows))
        if self.facts:
            parts.append("\n".join(["| what | figure |", "|---|---|", *(f"| {a} | {b} |" for a, b in self.facts)]))
        if self.ratios:
            rows = [f"| {name} | {value:.3f} |" for name, value in self.ratios]
            parts.append("\n".join(["| ratio | value |", "|---|---|", *rows]))
        return "\n\n".join(parts)

    def print_ratios(self) -> None:
        for name, value in self.ratios:
            print(f"ratio {name}: {value:.3f}")


_HEADINGS: Final = (
    "who",
    "asked",
    "load",
    "images/s",
    "per core",
    "p50",
    "p95",
    "p99 ms",
    "server CPU s per 1,000",
    "peak RSS MiB",
    "refused",
    "errors",
    "late",
    "valid",
)


def _table(rows: Iterable[Measured]) -> str:
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|---|---|---|" + "---:|" * (len(_HEADINGS) - 3)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def _cells(row: Measured) -> tuple[str, ...]:
    return (
        row.subject,
        row.asked,
        row.load,
        f"{row.per_s:.1f}",
        f"{row.per_s_and_core:.1f}",
        *(ms(row.latency, q) for q in ("p50", "p95", "p99")),
        f"{row.cpu_ms:.1f}",
        f"{row.cost.rss_peak / 2**20:.0f}",
        str(row.refused),
        str(row.errors),
        "-" if row.offered_per_s is None else f"{row.late:.1%}",
        "VALID" if row.valid else "; ".join(row.faults),
    )


def line(row: Measured) -> str:
    """One row for the eye, with the generator's own CPU beside the server's."""
    return (
        f"{row.subject:<24} {row.asked:<34} {row.load:<12} {row.per_s:8.1f}/s  p50 {ms(row.latency, 'p50'):>7} "
        f"p95 {ms(row.latency, 'p95'):>7} p99 {ms(row.latency, 'p99'):>7} ms  {row.cpu_ms:6.1f} CPU-ms "
        f"(+{row.cost.generator_cpu_s / max(1, row.sent) * 1e3:.1f} client)  peak {row.cost.rss_peak / 2**20:.0f} MiB  "
        f"{row.refused} refused {row.errors} errors  {'VALID' if row.valid else 'not valid: ' + '; '.join(row.faults)}"
    )


def ms(times: Percentiles, which: str) -> str:
    value: float = getattr(times, which)
    return "-" if math.isnan(value) else f"{value:.1f}"


def cpu_model() -> str:
    try:
        for entry in Path("/proc/cpuinfo").read_text().splitlines():
            if entry.startswith("model name"):
                return entry.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _versions(names: Iterable[str]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found
