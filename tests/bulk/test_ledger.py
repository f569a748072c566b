"""The ledger: whatever instant a run ends at, the next one finds every film exactly once."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.bulk.films import Film, FilmName
from app.bulk.identity import METADATA, Run, run_of
from app.bulk.ledger import Ledger, Part, _names_of
from app.bulk.rows import Judge, Row, failed
from app.errors import BulkError

BY = Judge("tiny", "1.0.0", "d" * 64, "onnxruntime", "1", "fp32", "screening", ("normal", "pneumonia"))
FILMS = 7
NAMES = [FilmName(f"film-{i}.jpg".encode()) for i in range(FILMS)]


class Killed(BaseException):
    """What kill -9 would do at this instant: nothing of the run's own code follows."""


def wanted(**changes: Any) -> Run:
    fields: dict[str, Any] = {
        "run_id": "r1",
        "generation": 0,
        "started_at": "2026",
        "films": 0,
        "source": {"kind": "folder"},
        "judge": BY,
        "thresholds": {"pneumonia": -0.4},
        "about": {},
    }
    return Run(**fields | changes)


def row(film: Film, *, code: str = "made", status: str = "ok") -> Row:
    return {**failed(film, BY, code, "x"), "status": status}


def whole_run(out: Path, *, per_part: int = 3) -> str:
    """As `app.bulk.score` does it."""
    ledger = Ledger(out)
    with ledger.held():
        found, finished = ledger.found()
        run = found or ledger.begin(wanted(), NAMES, threading.Event())
        if finished:
            return "nothing to do"
        ledger.resume(run, retry_failed=False)
        waiting = []
        for film in ledger.pending():
            waiting.append(row(film))
            if len(waiting) == per_part:
                ledger.commit(waiting, lambda part: None)
                waiting = []
        if waiting:
            ledger.commit(waiting, lambda part: None)
        ledger.finish()
    return "finished"


def films_in(out: Path) -> list[int]:
    found: list[int] = pq.read_table(out)["film"].to_pylist()
    return found


def test_a_run_that_is_never_killed(tmp_path: Path) -> None:
    out = tmp_path / "r.parquet"
    assert whole_run(out) == "finished"
    assert films_in(out) == list(range(FILMS))
    assert pq.read_table(out)["path"].to_pylist() == [name.shown for name in NAMES]
    assert whole_run(out) == "nothing to do"
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]
    run = run_of(out)
    assert run is not None
    assert (run.run_id, run.films, run.judge, run.thresholds) == ("r1", 7, BY, {"pneumonia": -0.4})


def test_a_run_that_is_killed_at_any_step_has_every_film_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after every fsync, rename, removal: killed there, then a few steps into the next try, then let through."""
    steps = 0
    fuse: list[int] = []

    def step() -> None:
        nonlocal steps
        steps += 1
        if fuse and steps >= fuse[0]:  # from then on nothing happens to the disk, not in a `finally` either
            raise Killed

    def watched(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            step()
            result = function(*arguments, **named)
            step()
            return result

        return call

    monkeypatch.setattr(os, "fsync", watched(os.fsync))
    monkeypatch.setattr(shutil, "rmtree", watched(shutil.rmtree))
    monkeypatch.setattr(pq, "write_table", watched(pq.write_table))
    for name in ("replace", "unlink", "mkdir"):
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))
    killed = True
    at = 0
    while killed:
        at += 1
        out = tmp_path / f"{at}.parquet"
        killed = False
        for limit in (at, 5 + at % 13):
            steps, fuse[:] = 0, [limit]
            try:
                whole_run(out)
            except Killed:
                killed = killed or limit == at
        fuse.clear()
        whole_run(out)
        assert films_in(out) == list(range(FILMS)), f"killed at step {at}"
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(f"{at}.")] == [out.name]
    assert at > 40  # the run has so many steps


def test_a_part_that_was_not_recorded_is_not_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r.parquet")
    with ledger.held():
        run = ledger.begin(wanted(), NAMES, threading.Event())
        ledger.resume(run, retry_failed=False)

        def refuse(part: Part) -> None:
            raise RuntimeError(part.sha256)

        with pytest.raises(RuntimeError, match=r"^[0-9a-f]{64}$"):
            ledger.commit([row(Film(0, NAMES[0]))], refuse)
        assert ledger.done == 0
        ledger.resume(run, retry_failed=False)
        assert ledger.done == 0
        assert len(list(ledger.pending())) == 7


def test_what_is_recorded_is_what_lies_there(tmp_path: Path) -> None:
    parts: list[Part] = []
    ledger = Ledger(tmp_path / "r.parquet")
    with ledger.held():
        ledger.resume(ledger.begin(wanted(), NAMES, threading.Event()), retry_failed=False)
        ledger.commit([row(Film(i, NAMES[i])) for i in (0, 1)], parts.append)
        ledger.commit([row(Film(2, NAMES[2]))], parts.append)
        lying = sorted((tmp_path / "r.parquet.parts").glob("part-*.parquet"))
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in lying] == [part.sha256 for part in parts]
    assert [(part.number, part.rows) for part in parts] == [(0, 2), (1, 1)]


def test_failed_films_of_a_finished_file_are_tried_again_and_replace_their_rows(tmp_path: Path) -> None:
    out = tmp_path / "r.parquet"
    ledger = Ledger(out)
    with ledger.held():
        ledger.resume(ledger.begin(wanted(), NAMES, threading.Event()), retry_failed=False)
        status = ["ok", "failed", "ok", "refused", "failed", "ok", "ok"]
        ledger.commit([row(f, status=status[f.place]) for f in ledger.pending()], lambda part: None)
        ledger.finish()
    assert ledger.failed() == 2
    with ledger.held():
        found, finished = ledger.found()
        assert finished
        assert found is not None
        again = ledger.reopen(found)
        ledger.resume(again, retry_failed=True)
        assert list(ledger.pending()) == [Film(1, NAMES[1]), Film(4, NAMES[4])]
        ledger.commit([row(Film(1, NAMES[1]), code="second")], lambda part: None)
    assert films_in(out) == list(range(FILMS))  # the finished file stays until it is replaced
    with ledger.held():  # killed here, and without --retry-failed the rest keeps its rows
        found, finished = ledger.found()
        assert (found, finished) == (again, False)
        ledger.resume(again, retry_failed=True)
        assert [film.place for film in ledger.pending()] == [4]
        ledger.commit([row(Film(4, NAMES[4]), code="third", status="failed")], lambda part: None)
        ledger.finish()
    codes = dict(zip(*(pq.read_table(out)[c].to_pylist() for c in ("film", "code")), strict=True))
    assert codes == {0: "made", 2: "made", 3: "made", 5: "made", 6: "made", 1: "second", 4: "third"}
    assert ledger.failed() == 1


def test_a_finished_file_is_opened_again_a_stretch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows out of order, so that a stretch lies in several row groups; and never the names of all films in memory."""
    monkeypatch.setattr("app.bulk.ledger.ROW_GROUP", 100)
    out, films = tmp_path / "r.parquet", 2_015
    names = [FilmName(f"{i:04d}-{'x' * 4_000}".encode()) for i in range(films)]  # 8 MB
    ledger = Ledger(out)
    with ledger.held():
        ledger.resume(ledger.begin(wanted(), names, threading.Event()), retry_failed=False)
        pending = list(ledger.pending())
        for start in (*range(50, films, 100), *range(0, films, 100)):
            ledger.commit([row(film) for film in pending[start : start + 50]], lambda part: None)
        ledger.finish()
    found, _ = ledger.found()
    assert found is not None
    before = pa.total_allocated_bytes()
    seen = []
    for name in _names_of(out, found.films):
        seen.append(name)
        assert pa.total_allocated_bytes() - before < 4_000_000
    assert seen == names
    with ledger.held():
        ledger.resume(ledger.reopen(found), retry_failed=False)
        assert ledger.done == films


def test_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "r.parquet"
    with Ledger(out).held(), pytest.raises(BulkError, match="in_use"), Ledger(out).held():
        pass
    with pytest.raises(BulkError, match="no_such_folder"), Ledger(tmp_path / "nowhere/r.parquet").held():
        pass


def test_a_file_of_somebody_else_is_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "r.parquet"
    pq.write_table(pa.table({"theirs": [1]}), out)
    with Ledger(out).held(), pytest.raises(BulkError, match="out_exists"):
        Ledger(out).found()
    out.write_text("a letter")
    with Ledger(out).held(), pytest.raises(BulkError, match="out_exists"):
        Ledger(out).found()


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r.parquet")
    with ledger.held():
        run = ledger.begin(wanted(), NAMES, threading.Event())
        ledger.resume(run, retry_failed=False)
        ledger.commit([row(Film(0, NAMES[0]))], lambda part: None)
        (part,) = (tmp_path / "r.parquet.parts").glob("part-*.parquet")
        part.write_bytes(part.read_bytes()[:-20])
        with pytest.raises(BulkError, match=r"damaged_part: part-000000.parquet: .*; remove it"):
            ledger.resume(run, retry_failed=False)
        part.unlink()
        ledger.resume(run, retry_failed=False)
        assert ledger.done == 0


def test_another_format_is_not_guessed_at() -> None:
    text = wanted().to_json().replace(b'"format": 1', b'"format": 2')
    with pytest.raises(BulkError, match="format 2; this program knows 1"):
        Run.from_json(text)
    for junk in (b"", b"[]", b"{}", b'{"format": 1}'):
        with pytest.raises(BulkError, match="unknown_format"):
            Run.from_json(junk)


def test_what_makes_another_run() -> None:
    assert wanted().differences(wanted(run_id="r2", films=9, started_at="later")) == []
    other = wanted(judge=replace(BY, precision="int8"), source={"kind": "table"})
    assert wanted().differences(other) == [
        "source kind 'table' instead of 'folder'",
        "precision 'int8' instead of 'fp32'",
    ]
    assert METADATA == b"cxr-triage"


def test_an_empty_source_is_said(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r.parquet").held(), pytest.raises(BulkError, match="no_films"):
        Ledger(tmp_path / "r.parquet").begin(wanted(), [], threading.Event())
    assert list(tmp_path.iterdir()) == []
