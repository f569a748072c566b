"""Judging on this machine: rows in order, only so many films on the way, a stop that loses nothing, a pace that is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from app.bulk.films import Film, FilmName
from app.bulk.local import AHEAD, Pace, judge_here
from app.bulk.rows import Row

QUICK = Pace(None, threading.Event())


def films(count: int) -> Iterator[Film]:
    return (Film(i, FilmName(str(i).encode())) for i in range(count))


def test_rows_come_in_the_order_of_the_films_however_long_each_takes() -> None:
    def judge(film: Film) -> Row:
        time.sleep(0.02 if film.place % 7 == 0 else 0)
        return {"film": film.place}

    rows = judge_here(films(60), judge, threads=4, pace=QUICK, stop=threading.Event())
    assert [row["film"] for row in rows] == list(range(60))


def test_only_so_many_films_are_taken_ahead_of_the_one_that_is_slow() -> None:
    taken, hold = 0, threading.Event()

    def listed() -> Iterator[Film]:
        nonlocal taken
        for film in films(1_000):
            taken += 1
            yield film

    def judge(film: Film) -> Row:
        if film.place == 0:
            hold.wait(10)
        return {"film": film.place}

    rows = judge_here(listed(), judge, threads=3, pace=QUICK, stop=threading.Event())
    timer = threading.Timer(0.3, hold.set)
    timer.start()
    assert next(rows)["film"] == 0
    assert taken <= AHEAD * 3 + 1
    assert len(list(rows)) == 999
    timer.join()


def test_a_stop_lets_begun_films_finish_and_begins_no_other() -> None:
    stop, begun = threading.Event(), set[int]()

    def judge(film: Film) -> Row:
        begun.add(film.place)
        if film.place == 5:
            stop.set()
        time.sleep(0.01)
        return {"film": film.place}

    rows = [row["film"] for row in judge_here(films(500), judge, threads=2, pace=QUICK, stop=stop)]
    assert rows == list(range(len(rows)))
    assert 5 in rows
    assert begun == set(rows)
    assert len(rows) < 20


def test_an_error_ends_it_after_the_rows_before() -> None:
    def judge(film: Film) -> Row:
        if film.place == 9:
            raise RuntimeError("gone")
        return {"film": film.place}

    rows = judge_here(films(100), judge, threads=2, pace=QUICK, stop=threading.Event())
    assert [next(rows)["film"] for _ in range(9)] == list(range(9))
    with pytest.raises(RuntimeError, match="gone"):
        next(rows)


def test_a_pace_spreads_the_films_and_a_stop_ends_the_wait() -> None:
    stop = threading.Event()
    pace = Pace(50.0, stop)
    began = time.monotonic()
    for _ in range(6):
        pace.wait()
    assert time.monotonic() - began >= 5 / 50.0  # never faster; the first begins at once
    slow = Pace(0.001, stop)
    slow.wait()
    stop.set()
    slow.wait()  # a thousand seconds, if nobody stopped it
