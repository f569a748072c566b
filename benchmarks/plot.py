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
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.2), layout="constrained")
    closed, opened = _subjects(rows, "closed"), _subjects(rows, "open")
    colours = {name: f"C{k}" for k, name in enumerate({**closed, **opened})}
    _capacity(left, closed, floors, colours)
    _latency(right, opened, colours)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None})
    plt.close(figure)


def _subjects(rows: list[Measured], load: str) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for row in rows:
        if row.load.startswith(load) and row.asked.endswith("multipart"):
            found.setdefault(row.subject, []).append(row)
    return found


def _capacity(
    axes: Any, subjects: dict[str, list[Measured]], floors: dict[str, float], colours: dict[str, str]
) -> None:
    for name, seen in subjects.items():
        at = [int(row.load.split()[1]) for row in seen]
        axes.plot(at, [row.per_s for row in seen], marker="o", label=name, color=colours[name])
    for name, per_s in floors.items():
        axes.axhline(per_s, linestyle=":", color="gray", linewidth=1)
        axes.text(1, per_s, f"floor, {name}", va="bottom", fontsize=7, color="gray")
    ticks = sorted({int(row.load.split()[1]) for seen in subjects.values() for row in seen})
    axes.set(xscale="log", xlabel="connections (closed loop)", ylabel="images/s", title="Capacity")
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


def _latency(axes: Any, subjects: dict[str, list[Measured]], colours: dict[str, str]) -> None:
    for name, seen in subjects.items():
        known = sorted((r for r in seen if r.latency.n and r.offered_per_s), key=lambda r: r.offered_per_s or 0.0)
        rates = [row.offered_per_s for row in known]
        axes.plot(rates, [row.latency.p99 for row in known], marker="o", color=colours[name])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="offered requests/s (open loop, Poisson)",
        ylabel="p99 of the answered, ms, from the scheduled instant",
        title="Latency",
    )
    ticks = [10, 20, 50, 100, 200, 500]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
