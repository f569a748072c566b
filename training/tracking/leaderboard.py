"""Which runs are best, and which differences are no more than chance. Computed from the hard validation alone.

Only comparable runs are ranked together: same task and classes, same validation films with the same truth, same corruptions, same
selecting external sets. Within such a group the runs are ordered by their selection figure. Rank 1 is the best run and every run
whose difference from it is not clear; the next rank is the best of the others and every run not clearly worse than that one, and so
on. A difference is clear where its 95 % interval by paired bootstrap over patients (percentiles; Efron and Tibshirani 1993) lies above
0. The intervals are not corrected for the number of runs: the more runs, the luckier the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from app.bundle.manifest import Estimate
from training.places import Places
from training.runs import write_atomically
from training.tracking import board_pages
from training.tracking.candidates import Candidate, find_candidates

Floats = NDArray[np.float64]
BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Line:
    """One run. difference: selection figure of the best run of the group less this one's (None: it is the best)."""

    rank: int
    run: str
    recipe: str
    title: str
    seed: int
    kind: str
    model: str
    selection: Estimate
    difference: Estimate | None
    corrupted_auroc: float
    clean_auroc: float
    external_auroc: Mapping[str, float | None]
    ece: Estimate | None
    brier: Estimate | None
    images_per_s: float | None
    state: str


@dataclass(frozen=True)
class Group:
    """Comparable runs, best first. films: of the validation; selecting: names of the external sets in the selection figure."""

    task: str
    classes: tuple[str, ...]
    digest: str
    films: int
    patients: int
    selecting: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Seeds:
    """Runs of one recipe that differ in their seed only: mean and range of the selection figure."""

    recipe: str
    seeds: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Leaderboard:
    """Groups, largest first; seeds: recipes run with several; left_out: folder -> why it could not be ranked."""

    groups: tuple[Group, ...]
    seeds: tuple[Seeds, ...]
    left_out: Mapping[str, str]
    bootstraps: int

    def tables(self) -> list[Table]:
        """For the terminal."""
        return board_pages.tables(self)


def leaderboard(places: Places, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> Leaderboard:
    """Rank every judged run of `places.runs` and write leaderboard.md, .html and .json there."""
    candidates, left_out = find_candidates(places)
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.films_digest, []).append(candidate)
    drawn = {
        c.run.path.name: c.replicates(bootstraps, seed)
        for c in track(candidates, description="bootstrap", transient=True)
    }
    ranked = [ranked_group(members, drawn) for members in groups.values()]
    board = Leaderboard(
        groups=tuple(sorted(ranked, key=lambda group: (-len(group.lines), group.task, group.digest))),
        seeds=_seeds(groups.values()),
        left_out=left_out,
        bootstraps=bootstraps,
    )
    _write(places.runs, board)
    return board


def ranked_group(members: Sequence[Candidate], drawn: Mapping[str, Floats]) -> Group:
    """Comparable runs in order, with ranks (module docstring). drawn: replicates of the selection figure by folder name."""
    order = sorted(members, key=lambda c: (-c.selection, c.run.path.name))
    best = order[0]
    rank = ranks([c.selection for c in order], [drawn[c.run.path.name] for c in order])
    lines = [
        _line(c, r, drawn[c.run.path.name], None if c is best else difference(best, c, drawn))
        for c, r in zip(order, rank, strict=True)
    ]
    clean = next(iter(best.sets.values()))
    return Group(
        task=best.run.recipe.data.task,
        classes=best.run.recipe.data.classes,
        digest=best.films_digest,
        films=len(clean),
        patients=len(np.unique(clean.patients)),
        selecting=tuple(best.external),
        lines=tuple(sorted(lines, key=lambda line: (line.rank, -line.selection.value, line.run))),
    )


def ranks(values: Sequence[float], drawn: Sequence[Floats]) -> list[int]:
    """Rank of each run, 1 = best; runs share a rank where the difference to the best of that rank is not clear.

    Args:
        values: selection figures, highest first.
        drawn: their replicates, float64 [B] each, paired.
    """
    found = [0] * len(values)
    rest = list(range(len(values)))
    while rest:
        leader = rest[0]
        rank = len(values) - len(rest) + 1
        tied = [
            i for i in rest if i == leader or not clear(_estimate(values[leader] - values[i], drawn[leader] - drawn[i]))
        ]
        for i in tied:
            found[i] = rank
        rest = [i for i in rest if i not in tied]
    return found


def clear(found: Estimate) -> bool:
    """Whether the whole interval of a difference lies above 0. Without an interval nothing is clear."""
    return found.ci is not None and found.ci[0] > 0


def difference(a: Candidate, b: Candidate, drawn: Mapping[str, Floats]) -> Estimate:
    """Selection figure of a less that of b, with its interval."""
    return _estimate(a.selection - b.selection, drawn[a.run.path.name] - drawn[b.run.path.name])


def _estimate(value: float, replicates: Floats) -> Estimate:
    kept = replicates[np.isfinite(replicates)]
    if not len(kept):
        return Estimate(value=value)
    low, high = (float(q) for q in np.quantile(kept, (0.025, 0.975)))
    return Estimate(value=value, ci=(low, high))


def _line(c: Candidate, rank: int, replicates: Floats, behind: Estimate | None) -> Line:
    recipe = c.run.recipe
    return Line(
        rank=rank,
        run=c.run.path.name,
        recipe=recipe.name,
        title=recipe.title,
        seed=recipe.seed,
        kind=c.kind,
        model=c.model,
        selection=_estimate(c.selection, replicates),
        difference=behind,
        corrupted_auroc=float(c.hard["corrupted_auroc"]),
        clean_auroc=float(c.hard["clean_auroc"]),
        external_auroc=dict(c.hard["external_auroc"]),
        ece=c.report_figure("ece"),
        brier=c.report_figure("brier"),
        images_per_s=c.images_per_s,
        state=c.state,
    )


def _seeds(groups: Any) -> tuple[Seeds, ...]:
    """Networks whose recipes are equal but for the seed, judged on the same films."""
    found = []
    for members in groups:
        alike: dict[str, list[Candidate]] = {}
        for c in members:
            if c.kind != "classical":
                alike.setdefault(c.run.recipe.changed({"seed": 0}).digest, []).append(c)
        for same in alike.values():
            values = [c.selection for c in same]
            if len(same) > 1:
                name = same[0].run.recipe.name
                found.append(Seeds(name, len(same), float(np.mean(values)), min(values), max(values)))
    return tuple(sorted(found, key=lambda s: -s.mean))


def _write(folder: Path, board: Leaderboard) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("leaderboard.md", board_pages.markdown(board)),
        ("leaderboard.html", board_pages.page(board)),
        ("leaderboard.json", board_pages.as_json(board)),
    ):
        write_atomically(folder / name, text.encode())
