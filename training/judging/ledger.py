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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from app.bundle.manifest import Estimate
from app.errors import ConfigurationError

SCORES = ("auroc", "auprc", "brier", "ece")
RATES = ("sensitivity", "specificity")
POINTS = ("screening", "sensitivity-90", "rule-in")  # of every line of the CSV ledger
LOOKS = "test_looks.jsonl"
FAULT = "ledger_fault"


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


def ready(path: Path, points: tuple[str, ...] | None) -> None:
    """See that a line can be added, before anything is looked at; makes the ledger and its folder.

    points: of a CSV ledger; None: it holds looks. Raises ConfigurationError where `append` or `append_look` would.
    """
    with _opened(path) as stream:
        if points is None:
            _check_chain(_whole(stream, path).splitlines(), path)
        else:
            _known_lines(stream, path, columns(points))


def append(path: Path, row: Mapping[str, str], points: tuple[str, ...]) -> int:
    """Add one line, durably; the header is written with the first. Returns the number of lines now.

    Raises ConfigurationError where the file cannot be written, has other columns or is torn: a ledger is never rewritten.
    """
    header = columns(points)
    if set(row) != set(header):
        raise ValueError(f"ledger row has {sorted(set(row) ^ set(header))} too much or too little")
    with _opened(path) as stream:
        lines = _known_lines(stream, path, header)
        writer = csv.DictWriter(stream, fieldnames=header, lineterminator="\n")
        if not lines:
            writer.writeheader()
        writer.writerow(row)
        _keep(stream)
    return max(lines, 1)


def _known_lines(stream: TextIO, path: Path, header: Sequence[str]) -> int:
    """Lines of a CSV ledger, the header counted."""
    lines = list(csv.reader(_whole(stream, path).splitlines()))
    if lines and lines[0] != header:
        raise ConfigurationError(FAULT, f"{path} has other columns; keep it and start a new ledger beside it")
    return len(lines)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """To read and to add, alone. Raises ConfigurationError where the file cannot be made, read or written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", newline="", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream
    except OSError as error:
        raise ConfigurationError(FAULT, f"{path} cannot be written: {error.strerror or error}") from error


def _whole(stream: TextIO, path: Path) -> str:
    """The text, from the start; what is written comes after it."""
    stream.seek(0)
    try:
        text = stream.read()
        stream.seek(0, os.SEEK_END)
    except UnicodeDecodeError as error:
        raise ConfigurationError(FAULT, f"{path} is not UTF-8: {error.reason}") from error
    if text and not text.endswith("\n"):
        raise ConfigurationError(FAULT, f"{path} ends in the middle of a line; restore it before looking again")
    return text


def _keep(stream: TextIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


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

    Raises ConfigurationError where the file cannot be written, a line was changed or taken out, or the last one is not whole: a ledger
    is never rewritten.
    """
    with _opened(path) as stream:
        lines = _whole(stream, path).splitlines()
        _check_chain(lines, path)
        line = json.dumps({**look, "previous": _digest(lines[-1]) if lines else ""}, sort_keys=True, allow_nan=False)
        stream.write(line + "\n")
        _keep(stream)
    return len(lines) + 1


def read_looks(path: Path) -> list[dict[str, Any]]:
    """All looks, oldest first; none where there is no ledger."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def check_looks(path: Path) -> None:
    """Raises ConfigurationError where a line does not follow from the one before it."""
    _check_chain(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], path)


def _check_chain(lines: Sequence[str], path: Path) -> None:
    previous = ""
    for number, line in enumerate(lines, start=1):
        try:
            told = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigurationError(FAULT, f"{path}: line {number} is not JSON: {error.msg}") from error
        if not isinstance(told, dict) or told.get("previous") != previous:
            raise ConfigurationError(FAULT, f"{path}: line {number} does not follow from the one before it")
        previous = _digest(line)


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
