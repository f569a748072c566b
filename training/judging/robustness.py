"""What a run's figures and its confidence do when films get worse: the suite of `training.judging.corruptions`, by severity.

A network that gets surer while it gets worse is dangerous (FEATURES S3-23): where the mean confidence rises and the accuracy falls,
both by an interval that excludes 0 (paired, by patients), the setting is listed as over-confident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from training.judging.answers import Answers, Figure, Index, Rule, above, answer, below, figures_at, intervals
from training.judging.corruptions import SUITE, SUITE_SEVERITIES, degrade_all
from training.judging.reading import Read
from training.judging.scored import Scored
from training.judging.shift import embedding_shift

Gray = NDArray[np.uint8]
NAMES = ("auroc", "accuracy", "balanced_accuracy", "confidence")
SHIFT_SEVERITIES = (1, 3, 5)  # embedding shift costs seconds a setting


def suite_report(
    films: Gray,
    scored: Scored,
    read: Read,
    rule: Rule,
    *,
    kinds: Sequence[str] = SUITE,
    severities: Sequence[int] = SUITE_SEVERITIES,
    bootstraps: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """The suite on N films.

    Args:
        films: uint8 [N, S, S], in the order of `scored`, whose logits are those of the clean films.
        read: the network.

    Returns:
        clean: figures; kinds: kind -> severity -> figures, their changes against clean, `over_confident`; by_severity: means over the
        kinds; over_confident: settings; rises: kinds whose AUROC is higher at the last severity than at the first, which a harder
        test must not do; embedding: kind -> severity -> `embedding_shift`.
    """
    clean = answer(scored, rule)
    pooled = read(films).pooled
    result: dict[str, Any] = {"n": len(scored), "patients": len(np.unique(scored.patients))}
    result["clean"] = intervals(lambda i: figures_at(clean, i), scored.patients, bootstraps=bootstraps, seed=seed)
    table: dict[str, dict[str, Any]] = {}
    moved: dict[str, dict[str, Any]] = {}
    steps = [(kind, severity) for kind in kinds for severity in severities]
    for kind, severity in track(steps, description="corruption suite", transient=True):
        reading = read(degrade_all(films, kind, severity, scored.paths.tolist()))
        worse = answer(replace(scored, name=f"{kind}-{severity}", logits=reading.logits), rule)
        table.setdefault(kind, {})[str(severity)] = compared(clean, worse, bootstraps=bootstraps, seed=seed)
        if severity in SHIFT_SEVERITIES:
            shift = embedding_shift(pooled, reading.pooled, scored.patients, bootstraps=40, permutations=200, seed=seed)
            moved.setdefault(kind, {})[str(severity)] = shift
    result["kinds"], result["embedding"] = table, moved
    result["by_severity"] = {str(s): _means([table[kind][str(s)] for kind in kinds]) for s in severities}
    result["over_confident"] = [f"{k}-{s}" for k in table for s in table[k] if table[k][s]["over_confident"]]
    result["rises"] = [kind for kind in table if _rises(table[kind], severities)]
    return result


def compared(clean: Answers, worse: Answers, *, bootstraps: int, seed: int) -> dict[str, Any]:
    """Figures of the changed films and their change against the same films clean, with paired intervals."""

    def figures(chosen: Index) -> dict[str, float]:
        now, before = figures_at(worse, chosen), figures_at(clean, chosen)
        return now | {f"{name}_change": now[name] - before[name] for name in NAMES}

    found: dict[str, Any] = dict(intervals(figures, clean.scored.patients, bootstraps=bootstraps, seed=seed))
    found["over_confident"] = over_confident(found)
    return found


def over_confident(figures: dict[str, Figure]) -> bool:
    """Confidence rises while accuracy falls, and neither interval holds 0."""
    return above(figures["confidence_change"], 0.0) and below(figures["accuracy_change"], 0.0)


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Plain means over the kinds; a figure that one kind lacks is left out."""
    return {n: float(np.mean([r[n]["value"] for r in rows])) for n in NAMES if all(n in r for r in rows)}


def _rises(row: dict[str, Any], severities: Sequence[int]) -> bool:
    first, last = (row[str(s)].get("auroc") for s in (severities[0], severities[-1]))
    return first is not None and last is not None and last["value"] > first["value"]
