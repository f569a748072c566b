"""The plan: every film once, in the order in which the source names them first."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bulk import plan
from app.bulk.films import Film, FilmName
from app.bulk.plan import distinct, read_plan, write_plan


@given(st.lists(st.sampled_from([b"a", b"b", b"c", b"dd", b"\xff"]), max_size=30))
def test_the_first_of_each_name_is_kept(paths: list[bytes]) -> None:
    first, films = distinct(FilmName(path) for path in paths)
    kept = [path for path, is_first in zip(paths, first, strict=True) if is_first]
    assert kept == list(dict.fromkeys(paths))
    assert films == len(kept)


@pytest.mark.parametrize("batch", [2, 3, 10_000])
def test_what_is_written_is_read_without_doubles_and_without_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(plan, "BATCH", batch)
    names = [FilmName(b"x\xff"), FilmName(b"y"), FilmName(b"x\xff"), FilmName(b"z"), FilmName(b"y"), FilmName(b"w")]
    path = tmp_path / "plan.parquet"
    assert write_plan(names, path, threading.Event()) == 4
    wanted = [Film(0, names[0]), Film(1, names[1]), Film(2, names[3]), Film(3, names[5])]
    assert list(read_plan(path)) == wanted
    assert list(read_plan(path, np.array([True, False, True, False]))) == [wanted[1], wanted[3]]
    assert [p.name for p in tmp_path.iterdir()] == ["plan.parquet"]


def test_films_of_an_archive_are_the_same_by_their_instance_uid(tmp_path: Path) -> None:
    """Pages of a list that grows while it is read overlap."""
    names = [FilmName(b"", "1.2", "1.2.3", "1.2.3.4"), FilmName(b"", "1.2", "1.2.3", "1.2.3.5")]
    assert write_plan([*names, names[0]], tmp_path / "plan", threading.Event()) == 2
    assert [film.name for film in read_plan(tmp_path / "plan")] == names
