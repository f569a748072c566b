from __future__ import annotations

from pathlib import Path

import pytest

from app.bundle.manifest import Estimate
from training.judging import ledger

POINTS = ("screening", "rule-in")


def _row(n: int) -> dict[str, str]:
    return dict.fromkeys(ledger.columns(POINTS), "0") | {"n": str(n), "recipe": "r"}


def test_lines_are_only_ever_added(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    assert ledger.read(path) == []
    assert ledger.append(path, _row(1), POINTS) == 1
    first = path.read_bytes()
    assert ledger.append(path, _row(2), POINTS) == 2
    assert path.read_bytes().startswith(first)
    assert [row["n"] for row in ledger.read(path)] == ["1", "2"]
    assert first.decode().splitlines()[0].split(",")[:6] == [
        "date", "recipe", "recipe_digest", "weights_digest", "git_commit", "n",
    ]  # fmt: skip


def test_a_row_or_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    with pytest.raises(ValueError, match="colour"):
        ledger.append(path, _row(1) | {"colour": "red"}, POINTS)
    ledger.append(path, _row(1), POINTS)
    before = path.read_bytes()
    other = dict.fromkeys(ledger.columns(("screening",)), "0")
    with pytest.raises(ValueError, match="other columns"):
        ledger.append(path, other, ("screening",))
    assert path.read_bytes() == before


def test_cells_hold_value_and_interval() -> None:
    row = ledger.cells("p_", {"auroc": Estimate(value=0.5, ci=(0.25, 0.75)), "x": Estimate(value=1.0)}, ("auroc", "x"))
    assert row["p_auroc"] == "0.50000"
    assert (row["p_auroc_low"], row["p_auroc_high"]) == ("0.25000", "0.75000")
    assert row["p_x_low"] == "nan"
