"""The arithmetic on a load: percentiles, coordinated omission, refusals, VALID."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.outcome import (
    Answers,
    Conditions,
    Cost,
    Measured,
    Percentiles,
    Samples,
    compare,
    faults,
    measured,
    recovery_s,
)

COST = Cost(cpu_s=2.0, rss_before=100, rss_peak=200, rss_after=150, generator_cpu_s=0.1)
GOOD = Conditions(seconds=10, answers=4)
RIGHT = Answers(checked=5)


def samples(
    scheduled: list[float], done: list[float], statuses: list[int] | None = None, sent: list[float] | None = None
) -> Samples:
    given = [scheduled, sent or scheduled, done]
    columns = [np.array(values, np.float64) for values in given]
    return Samples(
        columns[0],
        columns[1],
        columns[2],
        np.array(statuses or [200] * len(done), np.int64),
        np.zeros(len(done), np.int64),
    )


def row(seen: Samples, **changes: Any) -> Measured:
    given: dict[str, Any] = {
        "subject": "s",
        "asked": "q",
        "load": "closed 1",
        "answers": RIGHT,
        "cost": COST,
        "cores": 2,
        "conditions": GOOD,
    }
    return measured(seen, **{**given, **changes})


STEADY = samples([0, 2, 4, 6, 8], [1, 3, 5, 7, 10])


def test_percentiles_are_times_that_occurred() -> None:
    times = Percentiles.of(np.arange(1, 101) / 1e3)
    assert (times.p50, times.p95, times.p99, times.worst, times.n) == (50.0, 95.0, 99.0, 100.0, 100)
    assert np.isnan(Percentiles.of(np.empty(0)).p99)


def test_a_stall_counts_from_the_instant_at_which_a_request_was_due() -> None:
    """One request a second; the service stalls for 5 s. A generator that waits sees one slow request, the users see five."""
    scheduled = [float(i) for i in range(10)]
    sent = [0, 1, 2, 7, 7.1, 7.2, 7.3, 7.4, 8, 9]
    done = [0.1, 1.1, 7.0, 7.1, 7.2, 7.3, 7.4, 7.5, 8.1, 9.1]
    found = row(samples(scheduled, done, sent=sent), schedule_s=10.0)
    assert found.uncorrected.p50 == pytest.approx(100)
    assert found.latency.worst == pytest.approx(5_000)
    assert found.latency.p95 == pytest.approx(5_000)
    assert int((samples(scheduled, done, sent=sent).latency_s > 1).sum()) == 5
    assert int((samples(scheduled, done, sent=sent).service_s > 1).sum()) == 1
    assert found.late == pytest.approx(0.5)
    assert any("sent late" in fault for fault in found.faults)


def test_a_row_counts_answers_refusals_and_errors() -> None:
    seen = samples([0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [200, 503, 429, 0, 500])
    found = row(seen)
    assert (found.sent, found.answered, found.refused, found.errors) == (5, 1, 2, 2)
    assert found.per_s == pytest.approx(1 / 5)
    assert found.refusal.n == 2
    assert found.cpu_ms == pytest.approx(2_000)
    assert found.per_s_and_core == pytest.approx(0.1)


def test_answers_after_an_open_loops_end_do_not_raise_its_rate() -> None:
    assert row(samples([0, 1, 2, 3], [1, 2, 8, 9]), schedule_s=4.0).per_s == pytest.approx(4 / 9)
    assert row(samples([0, 1, 2, 3], [1, 2, 3, 3.5]), schedule_s=4.0).per_s == pytest.approx(1.0)


def test_a_row_is_valid_only_where_every_condition_holds() -> None:
    found = row(STEADY)
    assert found.valid
    assert found.as_json()["valid"] is True
    for changes, words in (
        ({"seconds": 9.0}, "9 s of at least 10"),
        ({"answered": 3}, "3 films answered of at least 4"),
        ({"errors": 1}, "1 errors"),
        ({"refused": 2}, "2 refused"),
        ({"answers": Answers(checked=5, wrong=1)}, "1 of 5 answers differ"),
        ({"answers": Answers()}, "no answer was compared"),
        ({"offered_per_s": 1.0, "late": 0.02}, "2.0% sent late"),
    ):
        assert [words in fault for fault in faults(replace(found, **changes), GOOD)] == [True], words


def test_refusals_are_allowed_where_the_load_is_more_than_the_capacity() -> None:
    overloaded = replace(row(STEADY), refused=3)
    assert faults(overloaded, replace(GOOD, refusals=True)) == ()


def test_late_sends_do_not_concern_a_closed_loop() -> None:
    assert faults(replace(row(STEADY), late=0.5), GOOD) == ()


def test_answers_are_compared_relative_to_large_logits() -> None:
    reference = np.array([[0.5], [100.0], [-2.0], [1.0]])
    logits = np.array([[0.5009], [100.09], [-2.1], [np.nan]])
    found = compare(logits, reference, 1e-3)
    assert (found.checked, found.wrong) == (4, 2)
    assert found.worst == pytest.approx(0.05)


def test_an_answer_of_another_film_is_wrong() -> None:
    reference = np.array([[1.0], [2.0], [3.0]])
    assert compare(np.roll(reference, 1, axis=0), reference, 1e-3).wrong == 3


def test_recovery_is_the_last_bad_request_after_the_storm() -> None:
    scheduled = [1.0, 9.9, 10.2, 10.5, 10.9, 11.5]
    done = [5.0, 15.0, 10.9, 11.0, 11.0, 11.6]
    assert recovery_s(samples(scheduled, done), 10.0, limit_s=0.3) == pytest.approx(0.5)
    assert recovery_s(samples(scheduled, done), 10.0, limit_s=1.0) == 0.0
    assert recovery_s(samples(scheduled, done, [200, 200, 503, 200, 200, 200]), 10.0, limit_s=1.0) == pytest.approx(0.2)
    assert recovery_s(samples(scheduled, [*done[:-1], 20.0]), 10.0, limit_s=0.3) == float("inf")


def test_a_request_of_several_films_counts_each() -> None:
    one, eight = row(STEADY), row(STEADY, films=8)
    assert eight.per_s == pytest.approx(8 * one.per_s)
    assert eight.cpu_ms == pytest.approx(one.cpu_ms / 8)
    assert eight.latency == one.latency
    assert faults(replace(one, answered=3), GOOD)
    assert not faults(replace(eight, answered=3), GOOD)


def test_a_speed_needs_answers_that_are_right() -> None:
    found = row(STEADY)
    assert found.sound
    assert replace(
        found, refused=2
    ).sound  # what was answered was right: each comparison says whether it allows refusals
    for changes in ({"answered": 0}, {"errors": 1}, {"answers": Answers(checked=5, wrong=1)}):
        assert not replace(found, **changes).sound


def test_json_has_no_nan() -> None:
    text = json.dumps(row(samples([], [])).as_json(), allow_nan=False)
    assert json.loads(text)["latency"]["p50"] is None
