"""Judging on a Ray cluster: what an actor does, and, where Ray is installed, that a real local cluster gives the same rows."""

from __future__ import annotations

import importlib.util
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from app.bulk import cluster
from app.bulk.cluster import Actor, _Order, blocks, films_of, judge_on_ray
from app.bulk.files import FolderSource
from app.bulk.films import Film, FilmName
from app.bulk.kit import Kit, Workplace, judge_of, packed
from app.errors import BulkError
from app.imaging.phantom import encode_jpeg, phantom
from app.live import LiveBundle
from app.settings import Settings
from tests.support.commands import cxr_in_parts, cxr_within

FILMS = [Film(i, FilmName(f"{i}.jpg".encode())) for i in range(3)] + [Film(3, FilmName(b"nowhere.jpg"))]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    root = tmp_path / "films"
    root.mkdir()
    for seed in range(3):
        (root / f"{seed}.jpg").write_bytes(encode_jpeg(phantom(seed, height=256, width=224)))
    return root


@pytest.fixture
def order(films: Path, tiny: LiveBundle, settings: Settings) -> _Order:
    kit = Kit.of(FolderSource(films), judge_of(tiny, None), settings)
    return _Order(kit, packed(tiny), None, version("cxr-triage"))


def test_films_travel_as_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "BLOCK_FILMS", 3)
    named = [*FILMS, Film(9, FilmName(b"", "1", "2", "3")), Film(10, FilmName(b"\xff"))]
    tables = list(blocks(iter(named)))
    assert [len(table) for table in tables] == [3, 3]
    assert [film for table in tables for film in films_of(table)] == named


def test_an_actor_verifies_the_bundle_it_was_sent_and_judges_as_we_do(order: _Order, tiny: LiveBundle) -> None:
    (block,) = blocks(iter(FILMS))
    here = Workplace(order.kit, tiny, workers=2, rate=None, stop=threading.Event())
    wanted = [dict(row) for row in here.rows(FILMS)]
    here.close()
    actor = Actor(order)
    found = actor(block).to_pylist()
    assert [row["status"] for row in found] == ["ok", "ok", "ok", "failed"]
    assert [{key: row[key] for key in mine} for row, mine in zip(found, wanted, strict=True)] == wanted
    workplace = actor._workplace
    assert actor(block).to_pylist() == found
    assert actor._workplace is workplace
    assert workplace is not None
    workplace.close()


def test_an_actor_that_cannot_judge_says_why_in_one_row(order: _Order) -> None:
    (block,) = blocks(iter(FILMS))
    damaged = dict(order.bundle) | {"network.onnx": order.bundle["network.onnx"][:-1] + b"x"}
    for wrong, code in (
        (replace(order, version="0"), "other_version"),
        (replace(order, bundle=damaged), "changed_file"),
        (replace(order, kit=replace(order.kit, by=replace(order.kit.by, precision="bf16"))), "engine_unavailable"),
        (replace(order, kit=replace(order.kit, by=replace(order.kit.by, engine_version="0"))), "another_judge"),
    ):
        (row,) = Actor(wrong)(block).to_pylist()
        assert (row["film"], row["status"], row["code"]) == (-1, "stopped", code)


def test_without_ray_it_says_what_to_install(order: _Order, tiny: LiveBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BulkError, match=r"missing_extra: install cxr-triage\[ray\]"):
        next(judge_on_ray(order.kit, tiny, iter(FILMS), address="local", workers=1, rate=None))


@pytest.mark.slow
def test_what_was_begun_here_and_killed_is_finished_on_a_real_cluster(
    films: Path, tiny: LiveBundle, tmp_path: Path
) -> None:
    """The file is that of a run that was neither."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("NOT RUN: ray is not installed (pip install 'cxr-triage[ray]')")
    (films / "letter").write_text("no film")
    where = {"state_dir": tmp_path / "state", "bundles_dir": tiny.bundle.path.parents[1], "bundle": "tiny/1.0.0"}
    done = cxr_within(280, "score", str(films), "--out", str(tmp_path / "here"), **where)
    assert done.returncode == 0, done.stderr
    _killed_after_a_part(["score", str(films), "--out", str(tmp_path / "there"), "--rate", "2"], where)
    done = cxr_within(
        280, "score", str(films), "--out", str(tmp_path / "there"), "--ray", "local", "--workers", "2", **where
    )
    assert done.returncode == 0, done.stderr
    assert "INFO" not in done.stderr
    assert re.search(r"4 films, [123] of them judged before", done.stderr)
    here, there = (pq.read_table(tmp_path / name) for name in ("here", "there"))
    assert len(here) == 4
    assert here.to_pylist() == there.to_pylist()


def _killed_after_a_part(arguments: list[str], where: Mapping[str, object]) -> None:
    """Run `cxr` with parts of one row, and kill it as soon as one is written."""
    parts = Path(f"{arguments[arguments.index('--out') + 1]}.parts")
    process = cxr_in_parts(1, *arguments, **where)
    try:
        until = time.monotonic() + 200  # the machine may be busy
        while not list(parts.glob("part-*.parquet")) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.005)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
