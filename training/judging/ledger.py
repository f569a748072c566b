"""The test ledgers: one committed line for every look at a test set. Lines are only ever added.

`test_ledger.csv` holds the looks of binary pneumonia recipes with the three standing operating points at the official Kermany test
split; `test_looks.jsonl` beside it every other look, at whatever test set, with whatever classes and points. A look stands in one
of them. Each line of the latter is a JSON object:

    {"date", "recipe", "recipe_digest", "seed", "weights_digest", "git_commit", "task", "classes",
     "test": {"n", "patients", "digest", "sources": {folder: films}},      digest: SHA-256 over the sorted paths
     "macro": {figure: estimate}, "scores": {class: {figure: estimate}},   threshold-free figures
     "points": {point: {"overall": {figure: estimate}, "classes": {class: {figure: estimate}}}},
     "previous": SHA-256 of the line before, without its line end; "" for the first}

so that a line that was changed or taken out shows (`check_looks`).
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.bundle.manifest import Estimate

SCORES = ("auroc", "auprc", "brier", "ece")
RATES = ("sensitivity", "specificity")
POINTS = ("screening", "sensitivity-90", "rule-in")  # of every line of the CSV ledger
LOOKS = "test_looks.jsonl"


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


def looks_beside(ledger: Path) -> Path:
    """Where the looks are kept that do not fit the CSV ledger."""
    return ledger.with_name(LOOKS)


def append_look(path: Path, look: Mapping[str, Any]) -> int:
    """Add one line, durably, chained to the one before it. Returns the number of lines now.

    Raises ValueError where a line was changed or taken out, or the last one is not whole: a ledger is never rewritten.
    """
    with path.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        text = stream.read()
        if text and not text.endswith("\n"):
            raise ValueError(f"{path.name} ends in the middle of a line; restore it before looking again")
        lines = text.splitlines()
        _check_chain(lines, path.name)
        line = json.dumps({**look, "previous": _digest(lines[-1]) if lines else ""}, sort_keys=True, allow_nan=False)
        stream.seek(0, os.SEEK_END)
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return len(lines) + 1


def read_looks(path: Path) -> list[dict[str, Any]]:
    """All looks, oldest first; none where there is no ledger."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def check_looks(path: Path) -> None:
    """Raises ValueError where a line does not follow from the one before it."""
    _check_chain(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], path.name)


def _check_chain(lines: Sequence[str], name: str) -> None:
    previous = ""
    for number, line in enumerate(lines, start=1):
        if json.loads(line).get("previous") != previous:
            raise ValueError(f"{name}: line {number} does not follow from the one before it")
        previous = _digest(line)


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
