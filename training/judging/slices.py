"""Figures by who was filmed and how: age band, sex, view, source, resolution, exposure. Where a fact is missing there is no slice.

Every slice shows its n and intervals, small ones too. A *gap* is the slice's figure less that of all other films with the same fact.
It is flagged only where the data allow: at least `SMALLEST` films on both sides, and below 0 beyond what chance gives at 5 % over
all comparisons of the table together (Bonferroni; normal approximation with the bootstrap's standard error by patients).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from app.domain import InputStatistics
from training.data.films import Film
from training.judging.answers import Answers, Index, balanced_accuracy, figure, intervals
from training.judging.figures import auroc, patient_samples

SMALLEST = 20  # films on either side of a comparison; and of each truth for a gap in AUROC
AGES = ((0, 5), (5, 18), (18, 40), (40, 65), (65, 200))
WIDTHS = (512, 1024, 2048)  # px, longest side as the source gives it
COMPARED = ("auroc", "accuracy")

Slices = dict[str, dict[str, NDArray[np.bool_]]]


def slice_masks(films: Sequence[Film], statistics: Sequence[InputStatistics]) -> tuple[Slices, dict[str, list[float]]]:
    """Fact -> value -> bool [N], and the edges of the exposure bands (mean gray level; terciles of these films).

    A fact that takes one value alone, or none, gives no slices.
    """
    means = np.array([s.mean for s in statistics])
    edges = [float(q) for q in np.quantile(means, (1 / 3, 2 / 3))]
    names = np.array(["dark", "middle", "bright"])
    words = {
        "age": [_age(film) for film in films],
        "sex": [film.sex for film in films],
        "view": [film.view for film in films],
        "source": [film.folder for film in films],
        "resolution": [_resolution(f, s) for f, s in zip(films, statistics, strict=True)],
        "exposure": names[np.searchsorted(edges, means, side="right")].tolist(),
    }
    found: Slices = {}
    for fact, values in words.items():
        column = np.array(values, dtype=np.str_)
        known = sorted(set(values) - {""})
        if len(known) > 1:
            found[fact] = {value: column == value for value in known}
    return found, {"exposure": edges}


def slice_report(
    answers: Answers,
    films: Sequence[Film],
    statistics: Sequence[InputStatistics],
    *,
    bootstraps: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of every slice.

    Args:
        films, statistics: of the N answers, in their order.

    Returns:
        facts: fact -> value -> {n, patients, figures, classes: {class: {n, auroc, sensitivity, specificity}}, gaps: {figure: {value, ci,
        flagged}}}; worst: per figure the slice of at least `SMALLEST` films with the lowest value; flagged: their names;
        comparisons: how many gaps share the 5 %; edges.
    """
    masks, edges = slice_masks(films, statistics)
    facts: dict[str, dict[str, Any]] = {}
    comparisons = sum(len(_comparable(answers, mask, _known(masks[f]))) for f in masks for mask in masks[f].values())
    level = float(norm.ppf(1 - 0.05 / max(1, comparisons)))
    for fact, values in masks.items():
        every = _known(values)
        for value, mask in values.items():
            row = _slice(answers, mask, bootstraps=bootstraps, seed=seed)
            row["gaps"] = _gaps(answers, mask, every, level=level, bootstraps=bootstraps, seed=seed)
            facts.setdefault(fact, {})[value] = row
    flagged = [
        f"{fact} {value}: {name}"
        for fact, values in facts.items()
        for value, row in values.items()
        for name, gap in row["gaps"].items()
        if gap["flagged"]
    ]
    return {
        "n": len(answers),
        "facts": facts,
        "worst": {name: _worst(facts, name) for name in ("auroc", "accuracy", "balanced_accuracy")},
        "flagged": flagged,
        "comparisons": comparisons,
        "edges": edges,
    }


def _slice(answers: Answers, mask: NDArray[np.bool_], *, bootstraps: int, seed: int) -> dict[str, Any]:
    rows = np.flatnonzero(mask)
    names = answers.classes[1:] if answers.scored.task == "binary" else answers.classes

    def figures(chosen: Index) -> dict[str, float]:
        return _figures(answers, rows[chosen]) | {
            f"{kind}:{name}": value
            for k, name in enumerate(names)
            for kind, value in _class_figures(answers, rows[chosen], k).items()
        }

    measured = intervals(figures, answers.scored.patients[rows], bootstraps=bootstraps, seed=seed)
    targets = answers.scored.targets[rows]
    return {
        "n": len(rows),
        "patients": len(np.unique(answers.scored.patients[rows])),
        "figures": {name: e for name, e in measured.items() if ":" not in name},
        "classes": {
            name: {"n": int(np.nansum(targets[:, k] == 1))}
            | {n.split(":")[0]: e for n, e in measured.items() if n.endswith(f":{name}")}
            for k, name in enumerate(names)
        },
    }


def _figures(answers: Answers, rows: Index) -> dict[str, float]:
    aurocs = [value for k in range(answers.margins.shape[1]) if np.isfinite(value := _auroc(answers, rows, k))]
    return {
        "auroc": float(np.mean(aurocs)) if aurocs else float("nan"),
        "accuracy": float(answers.correct[rows].mean()),
        "balanced_accuracy": balanced_accuracy(answers, rows),
    }


def _class_figures(answers: Answers, rows: Index, k: int) -> dict[str, float]:
    truth, positive = answers.scored.targets[rows, k], answers.positive[rows, k]
    return {
        "auroc": _auroc(answers, rows, k),
        "sensitivity": float(positive[truth == 1].mean()) if np.any(truth == 1) else float("nan"),
        "specificity": float(1 - positive[truth == 0].mean()) if np.any(truth == 0) else float("nan"),
    }


def _auroc(answers: Answers, rows: Index, k: int) -> float:
    truth = answers.scored.targets[rows, k]
    known = np.isfinite(truth)
    return auroc(truth[known].astype(np.int64), answers.margins[rows[known], k])


def _comparable(answers: Answers, mask: NDArray[np.bool_], every: NDArray[np.bool_]) -> list[str]:
    """Which figures have enough films on both sides of the comparison."""
    sides = (np.flatnonzero(mask), np.flatnonzero(every & ~mask))
    if min(len(rows) for rows in sides) < SMALLEST:
        return []
    found = ["accuracy"]
    if all(_both_truths(answers, rows).any() for rows in sides) and _shared(answers, sides):
        found.append("auroc")
    return found


def _both_truths(answers: Answers, rows: Index) -> NDArray[np.bool_]:
    targets = answers.scored.targets[rows]
    return np.asarray(((targets == 1).sum(axis=0) >= SMALLEST) & ((targets == 0).sum(axis=0) >= SMALLEST))


def _shared(answers: Answers, sides: tuple[Index, Index]) -> list[int]:
    """Outputs that have both truths on both sides: only those are averaged in a gap, or the slices would differ by their classes."""
    return [int(k) for k in np.flatnonzero(_both_truths(answers, sides[0]) & _both_truths(answers, sides[1]))]


def _gaps(
    answers: Answers,
    mask: NDArray[np.bool_],
    every: NDArray[np.bool_],
    *,
    level: float,
    bootstraps: int,
    seed: int,
) -> dict[str, Any]:
    names = _comparable(answers, mask, every)
    if not names:
        return {}
    rows = np.flatnonzero(every)
    outputs = _shared(answers, (np.flatnonzero(mask), np.flatnonzero(every & ~mask)))

    def gap(chosen: Index) -> dict[str, float]:
        inside, outside = rows[chosen][mask[rows[chosen]]], rows[chosen][~mask[rows[chosen]]]
        if not len(inside) or not len(outside):
            return dict.fromkeys(names, float("nan"))
        found = {"accuracy": float(answers.correct[inside].mean() - answers.correct[outside].mean())}
        if "auroc" in names:
            each = [_auroc(answers, inside, k) - _auroc(answers, outside, k) for k in outputs]
            found["auroc"] = float(np.mean(each))
        return found

    values = gap(np.arange(len(rows)))
    drawn = [gap(sample) for sample in patient_samples(answers.scored.patients[rows], bootstraps, seed)]
    result = {}
    for name in names:
        replicates = np.array([d[name] for d in drawn])
        error = float(np.nanstd(replicates))
        flagged = bool(values[name] < 0 and abs(values[name]) > level * error)
        result[name] = figure(values[name], replicates) | {"flagged": flagged}
    return result


def _worst(facts: dict[str, dict[str, Any]], name: str) -> dict[str, Any] | None:
    found = [
        {"slice": f"{fact} {value}", "n": row["n"]} | row["figures"][name]
        for fact, values in facts.items()
        for value, row in values.items()
        if row["n"] >= SMALLEST and name in row["figures"]
    ]
    return min(found, key=lambda row: float(row["value"])) if found else None


def _known(values: dict[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.asarray(np.any(list(values.values()), axis=0))


def _age(film: Film) -> str:
    if film.age_years is None:
        return film.age_group if film.age_group in {"paediatric", "adult"} else ""
    band = next(((low, high) for low, high in AGES if low <= film.age_years < high), None)
    if band is None:
        return ""
    return f"{band[0]} and over" if band == AGES[-1] else f"{band[0]} to under {band[1]}"


def _resolution(film: Film, statistics: InputStatistics) -> str:
    longest = max(film.width, film.height) or max(statistics.width, statistics.height)
    for limit in WIDTHS:
        if longest <= limit:
            return f"up to {limit} px"
    return f"over {WIDTHS[-1]} px"
