from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.bundle.manifest import Estimate
from app.errors import ConfigurationError
from training.judging import ledger
from training.places import CHECKOUT

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
    with pytest.raises(ConfigurationError, match=r"ledger\.csv has other columns"):
        ledger.append(path, other, ("screening",))
    assert path.read_bytes() == before


def test_cells_hold_value_and_interval() -> None:
    row = ledger.cells("p_", {"auroc": Estimate(value=0.5, ci=(0.25, 0.75)), "x": Estimate(value=1.0)}, ("auroc", "x"))
    assert row["p_auroc"] == "0.50000"
    assert (row["p_auroc_low"], row["p_auroc_high"]) == ("0.25000", "0.75000")
    assert row["p_x_low"] == "nan"


def _look(n: int) -> dict[str, Any]:
    return {"recipe": "r", "test": {"n": n}, "macro": {"auroc": {"value": 0.9, "ci": None}}}


def test_looks_are_chained_and_only_ever_added(tmp_path: Path) -> None:
    path = ledger.looks_beside(tmp_path / "test_ledger.csv")
    assert path == tmp_path / "test_looks.jsonl"
    assert ledger.read_looks(path) == []
    assert ledger.append_look(path, _look(1)) == 1
    first = path.read_bytes()
    assert [ledger.append_look(path, _look(n)) for n in (2, 3)] == [2, 3]
    assert path.read_bytes().startswith(first)
    assert [look["test"]["n"] for look in ledger.read_looks(path)] == [1, 2, 3]
    ledger.check_looks(path)


@pytest.mark.parametrize("line", [0, 1])
def test_a_changed_or_missing_look_shows(tmp_path: Path, line: int) -> None:
    path = tmp_path / "looks.jsonl"
    for n in range(3):
        ledger.append_look(path, _look(n))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:line], lines[line].replace("0.9", "0.95"), *lines[line + 1 :]]) + "\n")
    with pytest.raises(ConfigurationError, match=f"line {line + 2} does not follow"):
        ledger.check_looks(path)
    path.write_text("\n".join([*lines[:line], *lines[line + 1 :]]) + "\n")
    with pytest.raises(ConfigurationError, match=f"line {line + 1} does not follow"):
        ledger.check_looks(path)
    with pytest.raises(ConfigurationError, match=f"line {line + 1} does not follow"):
        ledger.append_look(path, _look(4))
    assert len(path.read_text().splitlines()) == 2


def test_the_committed_looks_are_whole() -> None:
    ledger.check_looks(ledger.looks_beside(CHECKOUT / "training" / "test_ledger.csv"))


def test_a_torn_line_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "looks.jsonl"
    ledger.append_look(path, _look(1))
    torn = path.read_text() + json.dumps(_look(2))[:20]
    path.write_text(torn)
    with pytest.raises(ConfigurationError, match="middle of a line"):
        ledger.append_look(path, _look(3))
    assert path.read_text() == torn


def test_a_look_holds_no_number_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.append_look(tmp_path / "looks.jsonl", {"macro": float("nan")})
    assert (tmp_path / "looks.jsonl").read_text() == ""


def test_a_new_folder_is_made_for_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "new" / "dir" / "x.csv"
    ledger.ready(path, POINTS)
    assert ledger.read(path) == []
    assert ledger.append(path, _row(1), POINTS) == 1
    assert ledger.append(tmp_path / "other" / "x.csv", _row(1), POINTS) == 1
    looks = ledger.looks_beside(tmp_path / "third" / "x.csv")
    ledger.ready(looks, None)
    assert ledger.append_look(looks, _look(1)) == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a,b\n1,2\n", "has other columns"),
        (b"date,rec", "ends in the middle of a line"),
        (b"\xff\xfe\n", "is not UTF-8"),
        (None, "cannot be written: Is a directory"),
    ],
)
def test_a_ledger_that_takes_no_line_is_said_beforehand(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "x.csv"
    path.mkdir() if content is None else path.write_bytes(content)
    for act in (lambda: ledger.ready(path, POINTS), lambda: ledger.append(path, _row(1), POINTS)):
        with pytest.raises(ConfigurationError, match=why) as caught:
            act()
        assert (caught.value.code, str(path) in str(caught.value)) == ("ledger_fault", True)
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 does not follow"),
        ('{"previous": "0"}\n', "line 1 does not follow"),
        ('{"previous"', "middle of a line"),
    ],
)
def test_looks_that_take_no_line_are_said_beforehand(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "looks.jsonl"
    path.write_text(text)
    for act in (lambda: ledger.ready(path, None), lambda: ledger.append_look(path, _look(1))):
        with pytest.raises(ConfigurationError, match=why):
            act()
    assert path.read_text() == text


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"x\.csv cannot be written: "):
        ledger.ready(tmp_path / "file" / "x.csv", POINTS)
