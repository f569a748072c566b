"""The README's picture of a run, as SVG: capacity of each subject beside the floor, and latency against the offered load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.outcome import Measured


def draw(rows: list[Measured], floors: dict[str, float], target: Path) -> None:
    """Left: images per second at each concurrency. Right: p99 by the rate really offered, logarithmic. Same data, same bytes."""
    import matplotlib as mpl  # noqa: PLC0415 - the extra `train`; nothing else here needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend

    plt.rcParams.update({"svg.hashsalt": "cxr", "font.size": 9, "svg.fonttype": "path"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _capacity(left, rows, floors)
    _latency(right, rows)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None})
    plt.close(figure)


def _subjects(rows: list[Measured], load: str) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for row in rows:
        if row.load.startswith(load) and row.asked.endswith("multipart"):
            found.setdefault(row.subject, []).append(row)
    return found


def _capacity(axes: Any, rows: list[Measured], floors: dict[str, float]) -> None:
    for name, seen in _subjects(rows, "closed").items():
        axes.plot([int(r.load.split()[1]) for r in seen], [r.per_s for r in seen], marker="o", label=name)
    for name, per_s in floors.items():
        axes.axhline(per_s, linestyle=":", color="gray", linewidth=1)
        axes.text(1, per_s, f" floor, {name}", va="bottom", fontsize=7, color="gray")
    axes.set(xscale="log", xlabel="connections (closed loop)", ylabel="images/s", title="Capacity")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


def _latency(axes: Any, rows: list[Measured]) -> None:
    for name, seen in _subjects(rows, "open").items():
        known = sorted((r for r in seen if r.latency.n and r.offered_per_s), key=lambda r: r.offered_per_s or 0.0)
        axes.plot([r.offered_per_s for r in known], [r.latency.p99 for r in known], marker="o", label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="offered requests/s (open loop, Poisson)",
        ylabel="p99 of the answered, ms, from the scheduled instant",
        title="Latency",
    )
    if axes.lines:
        axes.legend(fontsize=7)
