from __future__ import annotations

import numpy as np
import pytest

from app.bundle.manifest import OperatingPoint
from tests.training.judging.made import NONE, many, scored, threshold_rule
from training.judging.answers import Rule, above, answer, balanced_accuracy, below, figures_at, intervals, macro_auroc


def test_a_binary_film_is_answered_at_the_threshold() -> None:
    films = scored([-1.0, 0.4, 0.5, 2.0], [0, 1, 0, 1])
    answers = answer(films, threshold_rule(0.5))
    assert answers.decided.tolist() == [0, 0, 1, 1]
    assert answers.correct.tolist() == [1, 0, 0, 1]
    assert answers.confidence == pytest.approx(1 / (1 + np.exp(-np.abs(films.logits[:, 0]))))
    assert answers.gap == pytest.approx([1.5, 0.1, 0.0, 1.5])
    found = figures_at(answers, np.arange(4))
    assert found["accuracy"] == 0.5
    assert found["auroc"] == 0.75
    assert balanced_accuracy(answers, np.array([0, 1])) == 0.5


def test_a_multiclass_film_is_answered_by_priority() -> None:
    films = many("multiclass", ("normal", "tb"), np.array([[2.0, 1.0], [2.0, -3.0]]), np.array([[0.0, 1], [1, 0]]))
    point = OperatingPoint(
        name="p", rule="hierarchical", target="made", thresholds={"tb": -1.5}, priority=("tb",), fallback="normal"
    )
    answers = answer(films, Rule(("normal", "tb"), NONE, point))
    assert answers.decided.tolist() == [1, 0]
    assert answers.truth.tolist() == [1, 0]
    assert answers.positive.tolist() == [[False, True], [True, False]]


def test_unknown_labels_do_not_count() -> None:
    targets = np.array([[1.0, np.nan], [0.0, 0.0], [1.0, 1.0]])
    films = many("multilabel", ("mass", "hernia"), np.array([[1.0, -5.0], [1.0, -1.0], [1.0, -1.0]]), targets)
    point = OperatingPoint(name="p", rule="per_label", target="made", thresholds={"mass": 0.0, "hernia": 0.0})
    answers = answer(films, Rule(("mass", "hernia"), NONE, point))
    assert answers.correct.tolist() == [1.0, 0.5, 0.5]
    assert answers.truth.tolist() == [-1, -1, -1]
    assert macro_auroc(targets, films.logits) == 0.5  # mass: all tied; hernia: tied
    assert balanced_accuracy(answers, np.arange(3)) == pytest.approx(((1 + 0) / 2 + (0 + 1) / 2) / 2)


def test_intervals_resample_patients() -> None:
    """Two patients with 50 films each: the mean of a resample is 0, 0.5 or 1, never between."""
    values = np.repeat([0.0, 1.0], 50)
    patients = np.repeat(["a", "b"], 50)
    found = intervals(
        lambda i: {"mean": float(values[i].mean()), "none": float("nan")}, patients, bootstraps=60, seed=0
    )
    assert found == {"mean": {"value": 0.5, "ci": [0.0, 1.0]}}
    assert above({"value": 1, "ci": [0.1, 2]}, 0)
    assert not above({"value": 1, "ci": [-0.1, 2]}, 0)
    assert below({"value": 1, "ci": [0.1, 2]}, 3)
    assert not below({"value": 1, "ci": None}, 3)
