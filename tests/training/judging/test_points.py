from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.bundle.manifest import OperatingPoint
from app.errors import ConfigurationError
from tests.training.judging.synthetic import scored, softmax_films
from training.judging.calibrate import NONE
from training.judging.conformal import ALWAYS
from training.judging.figures import confusion, rates
from training.judging.points import NEVER, operating_points
from training.judging.predict import decide_all, true_class
from training.judging.scored import Scored
from training.recipe import Recipe, parse_recipe

CONTENT: dict[str, Any] = {
    "name": "r",
    "seed": 1,
    "data": {"sources": [{"kind": "manifest", "folder": "f"}]},
    "input": {
        "size": 64,
        "channels": 1,
        "resize": "stretch",
        "sixteen_bit": "significant_bits",
        "normalisation": {"kind": "per_image", "std_floor": 8.0},
    },
    "training": {"stages": [{"epochs": 1, "size": 64}]},
}
CLASSES = {
    "binary": ["normal", "pneumonia"],
    "multiclass": ["normal", "pneumonia", "tuberculosis"],
    "multilabel": ["effusion", "mass", "hernia"],
}


def recipe(task: str, *points: dict[str, Any], robust: bool = True) -> Recipe:
    """A recipe with these operating points, the first of them the default."""
    content = CONTENT | {"data": CONTENT["data"] | {"task": task, "classes": CLASSES[task]}}
    named = [{"name": point["kind"].replace("_", "-"), **point} for point in points]
    content["decision"] = {
        "points": named, "default_operating_point": named[0]["name"], "robust": robust, "bootstraps": 20,
    }  # fmt: skip
    content["training"] = content["training"] | {"loss": {"kind": "cross_entropy" if task == "multiclass" else "bce"}}
    return parse_recipe(content, "test")


def _binary(seed: int, shift: float = 0.0, name: str = "clean") -> Scored:
    rng = np.random.default_rng(seed)
    truth = np.arange(400) % 2
    return scored(rng.normal(4.0 * truth - 2.0 + shift, 1.5)[:, None], truth[:, None], name=name)


def _rate(films: Scored, point: OperatingPoint, name: str, output: int = 0) -> float:
    judged = films.judged(NONE, output)
    threshold = point.thresholds[films.outputs[output]]
    return rates(confusion(judged.labels, judged.margins, threshold))[name]


HIERARCHICAL: dict[str, Any] = {
    "kind": "hierarchical",
    "priority": ["tuberculosis", "pneumonia"],
    "fallback": "normal",
    "targets": {"tuberculosis": 0.90, "pneumonia": 0.85},
}


def test_robust_targets_hold_on_every_set_and_others_on_the_clean_one() -> None:
    sets = [_binary(0), _binary(1, 1.0, "blur-1"), _binary(2, -1.0, "gamma-1")]
    wanted = ({"kind": "sensitivity", "target": 0.9}, {"kind": "specificity", "target": 0.9})
    (sensitive, specific), notes = operating_points(recipe("binary", *wanted), sets, NONE)
    assert notes == ()
    assert 0.9 <= min(_rate(s, sensitive, "sensitivity") for s in sets) < 0.91
    assert 0.9 <= min(_rate(s, specific, "specificity") for s in sets) < 0.91
    assert "under each corruption" in sensitive.target
    (plain, _), _ = operating_points(recipe("binary", *wanted, robust=False), sets, NONE)
    assert 0.9 <= _rate(sets[0], plain, "sensitivity") < 0.91
    assert _rate(sets[2], plain, "sensitivity") < 0.9
    assert "corruption" not in plain.target


def test_each_label_has_its_own_threshold() -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random((300, 3)) < [0.5, 0.2, 0.1]).astype(np.float64)
    films = scored(
        3 * truth + rng.normal([0, 5, -5], 1.0, (300, 3)), truth, tuple(CLASSES["multilabel"]), task="multilabel"
    )
    kinds = ({"kind": "max_f1"}, {"kind": "youden", "name": "youden"}, {"kind": "cost", "missed": 2, "false_alarm": 1})
    points, _ = operating_points(recipe("multilabel", *kinds, {"kind": "sensitivity", "target": 0.8}), [films], NONE)
    assert [p.rule for p in points] == ["per_label"] * 4
    for k, (name, offset) in enumerate(zip(CLASSES["multilabel"], (0, 5, -5), strict=True)):
        assert points[0].thresholds[name] == pytest.approx(1.5 + offset, abs=1.2)
        best = _rate(films, points[0], "f1", k)
        assert all(best >= _rate(films, other, "f1", k) for other in points[1:])
        assert _rate(films, points[3], "sensitivity", k) >= 0.8


def test_a_label_that_the_fit_half_does_not_show_is_never_said_and_a_note_says_so() -> None:
    logits = [[1, 1, 9], [1, 1, 9], [-1, -1, 9], [-1, -1, 9]]
    truth = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, np.nan, 0.0], [0.0, np.nan, 0.0]]
    films = scored(logits, truth, ("effusion", "mass", "hernia"), task="multilabel")
    [point], notes = operating_points(recipe("multilabel", {"kind": "max_f1"}), [films], NONE)
    assert point.thresholds == {"effusion": 0.0, "mass": NEVER, "hernia": NEVER}
    assert notes == (
        "max-f1: mass is never said: the fit-half holds 2 films with mass and 0 without",
        "max-f1: hernia is never said: the fit-half holds 0 films with hernia and 4 without",
    )
    assert not decide_all(films, NONE, point, films.outputs).answers[:, 1:].any()


def test_a_binary_recipe_without_both_classes_has_no_points() -> None:
    films = scored([[1.0], [2.0]], [[1], [1]])
    with pytest.raises(ConfigurationError, match="2 films with pneumonia and 0 without"):
        operating_points(recipe("binary", {"kind": "youden"}), [films], NONE)


def test_the_priority_rule_by_hand() -> None:
    logits = np.log(
        [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [0.5, 0.1, 0.4]]
    )
    films = scored(logits, np.eye(3)[[0, 0, 1, 1, 2, 2]], tuple(CLASSES["multiclass"]), task="multiclass")
    [point], _ = operating_points(recipe("multiclass", HIERARCHICAL), [films], NONE)
    assert point.priority == ("tuberculosis", "pneumonia")
    # both tuberculosis films (p = 0.6 and 0.4) must reach it, the next lower is 0.1: midway in margins
    assert point.thresholds["tuberculosis"] == pytest.approx((np.log(0.4 / 0.6) + np.log(0.1 / 0.9)) / 2)
    assert point.thresholds["pneumonia"] == pytest.approx((np.log(0.5 / 0.5) + np.log(0.3 / 0.7)) / 2)
    labels = decide_all(films, NONE, point, films.outputs).labels.tolist()
    # the fourth film is pneumonia, but has a tuberculosis margin that comes first: the later class pays
    assert labels == ["normal", "normal", "pneumonia", "tuberculosis", "tuberculosis", "tuberculosis"]


def test_targets_are_met_one_against_the_rest_and_for_the_first_class_under_the_rule_too() -> None:
    films = softmax_films(900, seed=1)
    [point], _ = operating_points(recipe("multiclass", HIERARCHICAL), [films], NONE)
    for name, target in HIERARCHICAL["targets"].items():
        assert target <= _rate(films, point, "sensitivity", CLASSES["multiclass"].index(name)) < target + 0.01
    decided = decide_all(films, NONE, point, films.outputs)
    truth = true_class(films)
    assert decided.answers[truth == 2, 2].mean() >= 0.90
    assert decided.answers[truth == 1, 1].mean() < 0.85  # lost to tuberculosis


def test_conformal_thresholds_are_of_clean_films_and_of_every_class() -> None:
    films, changed = softmax_films(900, seed=1), softmax_films(900, seed=2, spread=0.1)
    wanted = recipe("multiclass", {"kind": "conformal", "coverage": 0.9})
    [point], notes = operating_points(wanted, [films, changed], NONE)
    assert point.rule == "conformal"
    assert notes == ()
    assert point == operating_points(wanted, [films], NONE)[0][0]
    for k, name in enumerate(CLASSES["multiclass"]):
        own = films.margins(NONE)[true_class(films) == k, k]
        covered = float((own >= point.thresholds[name]).mean())
        assert 0.9 <= covered <= 0.9 + 2 / len(own)


def test_binary_conformal_has_both_classes_and_too_few_films_rule_nothing_out() -> None:
    films = scored([[-3.0], [-1.0], [1.0], [3.0]], [[0], [0], [1], [1]])
    points, notes = operating_points(
        recipe(
            "binary", {"kind": "conformal", "name": "half", "coverage": 0.5}, {"kind": "conformal", "coverage": 0.9}
        ),
        [films],
        NONE,
    )
    assert points[0].thresholds == {"normal": 1.0, "pneumonia": 1.0}  # ceil(3 * 0.5) = 2nd largest of each
    assert points[1].thresholds == {"normal": ALWAYS, "pneumonia": ALWAYS}
    assert notes[0] == "conformal: normal is in every set: 2 films are too few for a coverage of 0.9"


def test_a_class_that_is_none_of_the_recipe_is_refused() -> None:
    wrong = HIERARCHICAL | {"priority": ["flu"], "targets": {"flu": 0.9}}
    with pytest.raises(ConfigurationError, match="are not the classes of the recipe"):
        operating_points(recipe("multiclass", wrong), [softmax_films(50, seed=0)], NONE)
