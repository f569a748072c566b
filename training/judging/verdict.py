"""Does a run read the source, or a mark at the edge, and not the disease? The rule, in plain words, per class.

*Source shortcut.* Let `source` be the AUROC with which a film's source alone, by the share of the class among its training films, tells
the class from the rest. The run fails where class and source go together (`source` >= 0.95) and something shows that seeing the source
is enough:
  - a classifier on thumbnails, border or corners reaches 0.90, or comes within 0.05 of the network; or
  - within sources that hold both sides the network falls (upper bound) more than 0.10 below its AUROC over all films; or
  - on a source held out of training it does (upper bound).
A held-out source on which the network stays (lower bound) within 0.10 of its AUROC clears it. Where class and source go together only
in part (`source` >= 0.80) the fall within sources, or on the held-out source, alone decides. Where there is neither a source with
both sides nor a held-out one, nothing can tell the disease from the source, and the run fails in both cases.

Within one source the disease itself may be seen on a thumbnail (Kermany: 0.98), so thumbnails never fail a run by themselves.

*Marks.* Corners hold no lung. The run fails where they alone tell the class nearly always (lower bound >= 0.95) and hardly worse than the
inside of the film does (within 0.02); or where the border does so and better than the inside (paired difference above 0).

*Reading the edge.* The run fails where exchanging the corners, or the whole border, for those of the other side costs the network more
than 0.05 AUROC (lower bound) beyond what a strange edge of its own side costs (`training.judging.edges`). On Kermany, whose border
tells pneumonia with AUROC 0.96 to a probe, the network of pneumonia-resnet18 1.1.0 reads 0.001 and 0.006 there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TOGETHER = 0.95
PARTLY = 0.80
ENOUGH = 0.90
MARGIN = 0.05
FALL = 0.10
MARK = 0.95
CORNER_MARGIN = 0.02
EDGE_READ = 0.05
REGIONS = ("32 x 32 thumbnail", "8 x 8 thumbnail", "border", "corners")

Line = dict[str, Any]


def shortcut_lines(figures: Mapping[str, Any]) -> list[Line]:
    """The verdict on each class.

    Args:
        figures: of figures-shortcuts.json: `network`, `labels`, `sources.by_class`, `edges`, `edge_gain` and, where present, `held_out`.

    Returns:
        Lines {name, measured, limit, wanted, passed, why}; `wanted` is `limit` under the name that policies use. All three questions are
        asked of every class; one that cannot be answered for want of films says so and does not pass.
    """
    lines = []
    for name in figures["outputs"]:
        lines.append(_source_line(name, figures))
        lines.append(_mark_line(name, figures))
        lines.append(_edge_line(name, figures))
    return lines


def _source_line(name: str, figures: Mapping[str, Any]) -> Line:
    limit = f"source tells the class with AUROC < {PARTLY:g}, or films of one source show that this is not enough"
    network, source = figures["network"].get(name), figures["sources"]["by_class"].get(name)
    if network is None or source is None:
        return _line(f"source, {name}", "not measured", limit, passed=False, why="too few films of either side")
    told, reached = float(source["told"]), float(network["value"])
    if told < PARTLY:
        return _line(f"source, {name}", f"{told:.3f}", limit, passed=True, why="class and source do not go together")
    held = figures.get("held_out", {}).get(name)
    against = [*_falls(reached, source, held)]
    clears = held is not None and held["ci"] is not None and held["ci"][0] >= reached - FALL
    if told >= TOGETHER:
        against += _probes(name, figures, reached)
    if not _told_apart(source.get("within")) and not _told_apart(held):
        against.append("no source holds both sides and none was held out: the disease cannot be told from the source")
    if clears:
        why = f"held-out source {_shown(held)} stays with {reached:.3f} of the network"
        return _line(f"source, {name}", f"{told:.3f}", limit, passed=True, why=why)
    degree = "go together" if told >= TOGETHER else "go together in part"
    why = f"class and source {degree}; " + ("; ".join(against) or "nothing shows that the source is enough")
    return _line(f"source, {name}", f"{told:.3f}", limit, passed=not against, why=why)


def _falls(reached: float, source: Mapping[str, Any], held: Mapping[str, Any] | None) -> Iterator[str]:
    within = source.get("within")
    if within is not None and within["ci"] is not None and within["ci"][1] < reached - FALL:
        yield f"within sources that hold both sides the network has {_shown(within)}, over all films {reached:.3f}"
    if held is not None and held["ci"] is not None and held["ci"][1] < reached - FALL:
        yield f"on a held-out source the network has {_shown(held)}, here {reached:.3f}"


def _told_apart(figure: Mapping[str, Any] | None) -> bool:
    """Whether there is a figure, with its interval, of films that differ in the class and not in the source."""
    return figure is not None and figure["ci"] is not None


def _probes(name: str, figures: Mapping[str, Any], reached: float) -> Iterator[str]:
    for region in REGIONS:
        probe = figures["labels"].get(region, {}).get(name)
        if probe is not None and (probe["value"] >= ENOUGH or probe["value"] >= reached - MARGIN):
            yield f"{region} {_shown(probe)} beside {reached:.3f} of the network"


def _mark_line(name: str, figures: Mapping[str, Any]) -> Line:
    limit = f"lower bound < {MARK:g} from corners or border, or the inside of the film tells more"
    probes = {region: figures["labels"].get(region, {}).get(name) for region in ("corners", "border")}
    if any(probe is None for probe in probes.values()):
        return _line(f"marks, {name}", "not measured", limit, passed=False, why="too few films of either side")
    measured = ", ".join(f"{region} {_shown(probe)}" for region, probe in probes.items() if probe is not None)
    gains = figures["edge_gain"].get(name, {})
    found = []
    for region, least in (("corners", -CORNER_MARGIN), ("border", None)):
        probe, gain = probes[region], gains.get(region)
        if probe is None or probe["ci"] is None or probe["ci"][0] < MARK or gain is None or gain["ci"] is None:
            continue
        told = gain["value"] >= least if least is not None else gain["ci"][0] > 0
        if told:
            found.append(f"{region} alone tell the class {gain['value']:+.3f} beside the inside of the film")
    why = "; ".join(found) or "the edge tells less than the film"
    return _line(f"marks, {name}", measured, limit, passed=not found, why=why)


def _edge_line(name: str, figures: Mapping[str, Any]) -> Line:
    limit = f"AUROC read from corners and border <= {EDGE_READ:g} each (lower bound)"
    rows = {edge: figures["edges"].get(edge, {}).get(name, {}) for edge in ("corners", "border")}
    if any("read" not in row for row in rows.values()):
        return _line(f"edge read, {name}", "not measured", limit, passed=False, why="too few films of either side")
    measured = ", ".join(f"{edge} {_shown(row['read'])}" for edge, row in rows.items())
    found = [
        f"AUROC {row['own']['value']:.3f} with {edge} of the own side, {row['other']['value']:.3f} of the other"
        for edge, row in rows.items()
        if row["read"]["ci"] is not None and row["read"]["ci"][0] > EDGE_READ
    ]
    why = "; ".join(found) or "the network does not decide by the edge"
    return _line(f"edge read, {name}", measured, limit, passed=not found, why=why)


def _line(name: str, measured: str, limit: str, *, passed: bool, why: str) -> Line:
    text = measured if passed else f"{measured}; {why}"
    return {"name": name, "measured": text, "limit": limit, "wanted": limit, "passed": passed, "why": why}


def _shown(figure: Mapping[str, Any]) -> str:
    if figure["ci"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['ci'][0]:.3f}, {figure['ci'][1]:.3f}]"
