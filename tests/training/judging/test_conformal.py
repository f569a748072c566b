from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.judging.conformal import ALWAYS, lac_threshold, named_sets, set_figures

unhurried = settings(deadline=None)  # the cores are shared

distinct = st.lists(st.integers(-500, 500), min_size=2, max_size=60, unique=True)
coverages = st.sampled_from([0.5, 0.8, 0.9, 0.95])


@unhurried
@given(values=distinct, coverage=coverages)
def test_exchangeable_films_are_covered_exactly_as_often_as_the_rank_says(values: list[int], coverage: float) -> None:
    """Of n + 1 exchangeable films each is as likely the new one: over all of them the share covered is rank / (n + 1)."""
    margins = np.array(values, dtype=np.float64)
    n = len(margins) - 1
    covered = [margins[i] >= lac_threshold(np.delete(margins, i), coverage) for i in range(n + 1)]
    rank = math.ceil((n + 1) * coverage - 1e-9)
    assert np.mean(covered) == pytest.approx(min(rank, n + 1) / (n + 1))
    assert np.mean(covered) >= coverage - 1e-9
    assert np.mean(covered) <= coverage + 1 / (n + 1) + 1e-9


@unhurried
@given(values=st.lists(st.integers(-3, 3), min_size=2, max_size=40), coverage=coverages)
def test_ties_only_raise_the_coverage(values: list[int], coverage: float) -> None:
    margins = np.array(values, dtype=np.float64)
    covered = [margins[i] >= lac_threshold(np.delete(margins, i), coverage) for i in range(len(margins))]
    assert np.mean(covered) >= coverage - 1e-9


def test_the_quantile_by_hand() -> None:
    margins = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 0.0, -1.0, -2.0, -3.0])  # n = 9
    assert lac_threshold(margins, 0.9) == -3.0  # the 9th largest: ceil(10 * 0.9)
    assert lac_threshold(margins, 0.5) == 1.0  # the 5th
    assert lac_threshold(margins[:8], 0.9) == ALWAYS  # ceil(9 * 0.9) = 9 of 8: cannot be had
    assert lac_threshold(np.empty(0), 0.5) == ALWAYS


def test_figures_of_sets_by_hand() -> None:
    held = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)
    truth = np.array([0, 1, 1, 2])
    found = set_figures(held, truth, ("a", "b", "c"))(np.array([[1.0, 1, 1, 1], [0, 2, 0, 0]]))
    assert found["overall|coverage"].tolist() == [0.5, 1.0]
    assert found["overall|mean_set_size"].tolist() == [1.0, 2.0]
    assert found["overall|singleton_share"].tolist() == [0.5, 0.0]
    assert found["overall|empty_share"].tolist() == [0.25, 0.0]
    assert found["b|coverage"].tolist() == [0.5, 1.0]
    assert np.isnan(found["a|coverage"][1])
    assert named_sets(held, truth, ("a", "b", "c")) == {
        "a": {"a": 1}, "b": {"a+b": 1, "c": 1}, "c": {"none": 1},
    }  # fmt: skip
