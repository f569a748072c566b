"""The test ledger: one committed line for every look at the official test split. Lines are only ever added."""

from __future__ import annotations

import csv
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from app.bundle.manifest import Estimate

SCORES = ("auroc", "auprc", "brier", "ece")
RATES = ("sensitivity", "specificity")


def columns(points: tuple[str, ...]) -> list[str]:
    """The header for a ledger with these operating points."""
    head = ["date", "recipe", "recipe_digest", "weights_digest", "git_commit", "n"]
    scores = [f"{name}{part}" for name in SCORES for part in ("", "_low", "_high")]
    rates = [f"{p}_{r}{part}" for p in points for r in RATES for part in ("", "_low", "_high")]
    return [*head, *scores, *rates]


def cells(prefix: str, figures: Mapping[str, Estimate], names: tuple[str, ...]) -> dict[str, str]:
    """Value and 95 % interval of each figure, five decimals."""
    row: dict[str, str] = {}
    for name in names:
        estimate = figures[name]
        low, high = estimate.ci or (float("nan"), float("nan"))
        row |= {f"{prefix}{name}": f"{estimate.value:.5f}", f"{prefix}{name}_low": f"{low:.5f}"}
        row[f"{prefix}{name}_high"] = f"{high:.5f}"
    return row


def append(path: Path, row: Mapping[str, str], points: tuple[str, ...]) -> int:
    """Add one line, durably; the header is written with the first. Returns the number of lines now.

    Raises ValueError where the file has other columns: a ledger is never rewritten.
    """
    header = columns(points)
    if set(row) != set(header):
        raise ValueError(f"ledger row has {sorted(set(row) ^ set(header))} too much or too little")
    with path.open("a+", newline="", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        known = next(csv.reader(stream), None)
        if known is not None and known != header:
            raise ValueError(f"{path.name} has other columns; keep it and start a new ledger beside it")
        lines = sum(1 for _ in csv.reader(stream))
        stream.seek(0, os.SEEK_END)
        writer = csv.DictWriter(stream, fieldnames=header, lineterminator="\n")
        if known is None:
            writer.writeheader()
        writer.writerow(row)
        stream.flush()
        os.fsync(stream.fileno())
    return lines + 1


def read(path: Path) -> list[dict[str, str]]:
    """All lines, oldest first; none where there is no ledger."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
