"""A whole run in process: rows that say what the service says, refusals that stop nothing, what is recorded, what goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from app.bulk import score as module
from app.bulk.files import FolderSource
from app.bulk.kit import Kit, judge_of
from app.bulk.score import Wish, score
from app.decision import decide
from app.errors import BulkError, RecordsError
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.judging import Limits, judge
from app.live import LiveBundle
from app.settings import Settings
from tests.bulk.conftest import Heard
from tests.support.dicom_films import dicom_film


@pytest.fixture
def films(tmp_path: Path) -> Path:
    root = tmp_path / "films"
    root.mkdir()
    for seed in range(4):
        (root / f"{seed}.jpg").write_bytes(encode_jpeg(phantom(seed, height=256, width=224)))
    (root / "5").write_bytes(dicom_film(5))
    (root / "blank.png").write_bytes(encode_png(np.zeros((256, 256), np.uint8)))
    (root / "letter.txt").write_text("no film")
    (root / "lost.jpg").symlink_to("nowhere")
    return root


def run(wish: Wish, live: LiveBundle, settings: Settings, heard: Heard, stop: threading.Event | None = None) -> Any:
    return score(wish, live, settings, workers=2, watcher=heard, stop=stop or threading.Event())


def rows_of(out: Path) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = pq.read_table(out).to_pylist()
    return found


def test_every_film_has_one_row_with_what_the_service_would_answer(
    films: Path, tmp_path: Path, tiny: LiveBundle, settings: Settings, heard: Heard
) -> None:
    out = tmp_path / "r.parquet"
    outcome = run(Wish(FolderSource(films), out), tiny, settings, heard)
    rows = rows_of(out)
    assert [row["film"] for row in rows] == list(range(8))
    assert [(row["path"], row["status"], row["code"]) for row in rows[3:]] == [
        ("3.jpg", "ok", None),
        ("5", "ok", None),
        ("blank.png", "refused", "blank_image"),
        ("letter.txt", "refused", "unsupported_format"),
        ("lost.jpg", "failed", "unreadable_file"),
    ]
    point = tiny.manifest.operating_point(None)
    assert point is not None
    limits = Limits(Kit.of(FolderSource(films), judge_of(tiny, None), settings).limits, 0)
    for row in rows:
        if row["status"] != "ok":
            assert row["message"]
            assert row["pneumonia_probability"] is None
            continue
        wanted = judge((films / row["path"]).read_bytes(), tiny, point, None, limits).judgement
        assert (row["sha256"], row["format"]) == (wanted.radiograph.sha256, wanted.radiograph.format)
        assert (row["label"], row["confidence"]) == (wanted.decision.label, wanted.decision.confidence)
        assert row["review_reasons"] == [str(reason) for reason in wanted.decision.review_reasons]
        assert row["warnings"] == [notice.code for notice in wanted.notices]
        for one in wanted.decision.classes:
            found = tuple(row[f"{one.name}_{what}"] for what in ("probability", "logit", "margin", "positive"))
            assert found == (one.probability, one.logit, one.margin, one.positive)
        assert (row["bundle_digest"], row["engine"]) == (tiny.bundle.digest, tiny.engine.info.name)
    assert outcome.statuses == {"ok": 5, "refused": 2, "failed": 1}
    assert outcome.finished


def test_what_is_recorded_names_the_run_and_no_film(
    films: Path, tmp_path: Path, tiny: LiveBundle, settings: Settings, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_ROWS", 3)
    outcome = run(Wish(FolderSource(films), tmp_path / "r.parquet"), tiny, settings, heard)
    assert [kind for kind, _ in heard.events] == ["score_started", *["score_committed"] * 3, "score_finished"]
    assert sum(facts.get("rows", 0) for _, facts in heard.events) == 8
    last = heard.events[-1][1]
    assert last["results_sha256"] == outcome.sha256
    assert last["statuses"] == {"ok": 5, "refused": 2, "failed": 1}
    assert last["bundle_digest"] == tiny.bundle.digest
    text = repr(heard.events)
    assert not [p.name for p in films.iterdir() if len(p.name) > 1 and p.name in text]
    assert str(tmp_path) not in text


def test_a_run_that_was_stopped_goes_on_and_judges_nothing_twice(
    films: Path, tmp_path: Path, tiny: LiveBundle, settings: Settings, heard: Heard
) -> None:
    out, stop = tmp_path / "r.parquet", threading.Event()

    class Stopper(Heard):
        def row(self, row: Mapping[str, Any]) -> None:
            super().row(row)
            stop.set()

    first = Stopper()
    outcome = run(Wish(FolderSource(films), out, rate=200.0), tiny, settings, first, stop)
    assert not outcome.finished
    assert not out.exists()
    assert first.events[-1][0] == "score_stopped"
    (films / "later.jpg").write_bytes(b"")  # the plan stands
    outcome = run(Wish(FolderSource(films), out), tiny, settings, heard)
    assert outcome.finished
    assert heard.runs[0][1] == len(first.rows)
    assert {row["film"] for row in first.rows}.isdisjoint(row["film"] for row in heard.rows)
    assert sorted(row["film"] for row in rows_of(out)) == list(range(8))
    again = Heard()
    assert run(Wish(FolderSource(films), out), tiny, settings, again).judged == 0
    assert again.events == []


def test_failed_films_are_tried_again_when_asked_for(
    films: Path, tmp_path: Path, tiny: LiveBundle, settings: Settings, heard: Heard
) -> None:
    out = tmp_path / "r.parquet"
    run(Wish(FolderSource(films), out), tiny, settings, Heard())
    (films / "lost.jpg").unlink()
    (films / "lost.jpg").write_bytes((films / "1.jpg").read_bytes())
    assert run(Wish(FolderSource(films), out), tiny, settings, heard).judged == 0
    outcome = run(Wish(FolderSource(films), out, retry_failed=True), tiny, settings, heard)
    assert (outcome.judged, outcome.statuses) == (1, {"ok": 6, "refused": 2})
    by_path = {row["path"]: row for row in rows_of(out)}
    assert by_path["lost.jpg"]["pneumonia_logit"] == by_path["1.jpg"]["pneumonia_logit"]


def test_another_question_is_another_run(
    films: Path, tmp_path: Path, tiny: LiveBundle, settings: Settings, heard: Heard
) -> None:
    out = tmp_path / "r.parquet"
    run(Wish(FolderSource(films), out), tiny, settings, heard)
    other = Wish(FolderSource(films, match="*.jpg"), out, operating_point="rule-in")
    with pytest.raises(BulkError, match=r"another_run: .*a finished run.*source match.*operating_point 'screening'"):
        run(other, tiny, settings, heard)
    with pytest.raises(BulkError, match=r"unknown_operating_point: tiny/1\.0\.0 has: screening, rule-in"):
        run(Wish(FolderSource(films), out, operating_point="none"), tiny, settings, heard)
    anew = Wish(FolderSource(films, match="*.jpg"), out, operating_point="rule-in", overwrite=True)
    assert run(anew, tiny, settings, heard).run.films == 5


def test_a_source_that_goes_away_stops_the_run_and_keeps_what_was_judged(
    films: Path, tmp_path: Path, tiny: LiveBundle, settings: Settings
) -> None:
    out, hidden = tmp_path / "r.parquet", tmp_path / "hidden"

    class Thief(Heard):
        def row(self, row: Mapping[str, Any]) -> None:
            super().row(row)
            if len(self.rows) == 1:
                films.rename(hidden)

    thief = Thief()
    with pytest.raises(BulkError, match="source_gone"):
        score(
            Wish(FolderSource(films), out, rate=5.0), tiny, settings, workers=1, watcher=thief, stop=threading.Event()
        )
    assert thief.events[-1][0] == "score_stopped"
    hidden.rename(films)
    rest = Heard()
    assert run(Wish(FolderSource(films), out), tiny, settings, rest).finished
    assert len(thief.rows) + len(rest.rows) == 8


def test_no_answer_without_a_record(
    films: Path, tmp_path: Path, tiny: LiveBundle, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(Heard):
        def audit(self, kind: str, facts: Mapping[str, Any]) -> None:
            if kind == "score_committed":
                raise RecordsError("audit_store_full", "no room")
            super().audit(kind, facts)

    out = tmp_path / "r.parquet"
    with pytest.raises(RecordsError):
        run(Wish(FolderSource(films), out), tiny, settings, Away())
    assert not out.exists()
    assert not list(out.with_name("r.parquet.parts").glob("part-*"))


def test_what_nobody_foresaw_costs_one_film(
    films: Path, tmp_path: Path, tiny: LiveBundle, settings: Settings, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def broken(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        return decide(*arguments, **named)

    monkeypatch.setattr("app.judging.decide", broken)
    outcome = run(Wish(FolderSource(films), tmp_path / "r.parquet"), tiny, settings, heard)
    assert outcome.codes["internal_error"] == 1
    assert outcome.statuses["ok"] == 4
