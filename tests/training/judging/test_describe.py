from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from app.domain import InputStatistics
from tests.training.judging.synthetic import scored, softmax_films
from tests.training.judging.test_points import CLASSES, HIERARCHICAL, recipe
from training.judging.decide import Fixed, Halves, fix
from training.judging.describe import describe
from training.judging.figures import READ_OFF
from training.judging.scored import Scored
from training.recipe import Recipe

SEVERAL = CLASSES["multiclass"]
CALIBRATED = {"brier", "nll", "ece", "ece_equal_width"}
STATISTICS = [InputStatistics(100, 40, 1.0, 0.0, 0.0, 5.0, 100, 100)] * 3


def _fixed(part: Recipe, films: Scored, other: Scored) -> Fixed:
    return fix(part, Halves([films], [other]), STATISTICS)


@pytest.fixture(scope="module")
def several() -> tuple[Recipe, Fixed, Scored]:
    part = recipe("multiclass", HIERARCHICAL, {"kind": "argmax"}, {"kind": "conformal"})
    part = part.changed({"decision.calibrators": ["none", "temperature", "vector_temperature"]})
    half, other, test = (softmax_films(500, seed, temperatures=(2.0, 2.0, 2.0)) for seed in (0, 1, 2))
    return part, _fixed(part, half, other), replace(test, patients=(np.arange(500) // 2).astype(str))


def _value(estimate: dict[str, Any]) -> float:
    low, high = estimate["ci"]
    assert low <= estimate["value"] <= high
    return float(estimate["value"])


def test_the_figures_of_several_classes_are_those_of_scikit_learn(several: tuple[Recipe, Fixed, Scored]) -> None:
    part, fixed, films = several
    found = describe(part, fixed, films)
    assert (found["n"], found["patients"]) == (500, 250)
    truth = np.argmax(films.targets, axis=1)
    p = films.probability(fixed.calibration)
    body = found["points"]["argmax"]
    predicted = np.argmax(p, axis=1)
    report = metrics.classification_report(truth, predicted, target_names=SEVERAL, output_dict=True)
    matrix = metrics.confusion_matrix(truth, predicted)
    for k, name in enumerate(SEVERAL):
        assert _value(body["classes"][name]["ppv"]) == pytest.approx(report[name]["precision"])
        assert _value(body["classes"][name]["sensitivity"]) == pytest.approx(report[name]["recall"])
        assert _value(body["classes"][name]["f1"]) == pytest.approx(report[name]["f1-score"])
        rest = metrics.recall_score(truth != k, predicted != k)
        assert _value(body["classes"][name]["specificity"]) == pytest.approx(rest)
        assert list(body["confusion"][name].values()) == matrix[k].tolist()
        assert found["classes"][name]["positives"] == int((truth == k).sum())
        assert _value(found["classes"][name]["scores"]["auroc"]) == pytest.approx(
            metrics.roc_auc_score(truth == k, p[:, k])
        )
    assert _value(body["overall"]["accuracy"]) == pytest.approx(report["accuracy"])
    assert _value(body["overall"]["macro_f1"]) == pytest.approx(report["macro avg"]["f1-score"])
    assert _value(body["overall"]["macro_ppv"]) == pytest.approx(report["macro avg"]["precision"])
    assert _value(body["overall"]["macro_sensitivity"]) == pytest.approx(report["macro avg"]["recall"])
    low, high = body["overall"]["macro_ppv"]["ci"]
    assert low < _value(body["overall"]["macro_ppv"]) < high
    assert _value(body["overall"]["balanced_accuracy"]) == pytest.approx(
        metrics.balanced_accuracy_score(truth, predicted)
    )
    assert _value(found["joint"]["nll"]) == pytest.approx(metrics.log_loss(truth, p))
    assert _value(found["joint"]["brier"]) == pytest.approx(float(((p - films.targets) ** 2).sum(axis=1).mean()))
    assert _value(found["joint"]["ece_top_label"]) ** 2 <= _value(found["joint"]["brier"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_calibration_is_shown_before_and_after(several: tuple[Recipe, Fixed, Scored]) -> None:
    part, fixed, films = several
    assert fixed.calibration.method == "temperature"
    found = describe(part, fixed, films)
    assert set(found["calibration"]) == CALIBRATED
    for name, change in found["calibration"].items():
        assert _value(change["difference"]) == pytest.approx(_value(change["after"]) - _value(change["before"]))
        assert _value(change["after"]) == pytest.approx(_value(found["macro"][name]))
        raw = np.mean([found["classes"][c]["uncalibrated"][name] for c in SEVERAL])
        assert _value(change["before"]) == pytest.approx(raw)
    assert found["calibration"]["nll"]["difference"]["ci"][1] < 0  # it helped, and surely


def test_a_priority_rule_shows_what_it_costs(several: tuple[Recipe, Fixed, Scored]) -> None:
    part, fixed, films = several
    found = describe(part, fixed, films)["points"]
    rule, argmax = found["hierarchical"], found["argmax"]
    assert _value(rule["classes"]["tuberculosis"]["sensitivity"]) > _value(
        argmax["classes"]["tuberculosis"]["sensitivity"]
    )
    price = rule["price"]
    assert price["recall"] == rule["classes"]["normal"]["sensitivity"]
    assert price["argmax_recall"] == argmax["classes"]["normal"]["sensitivity"]
    assert _value(price["difference"]) == pytest.approx(price["recall"]["value"] - price["argmax_recall"]["value"])
    assert price["difference"]["value"] < 0


def test_prediction_sets_are_described_by_what_they_hold(several: tuple[Recipe, Fixed, Scored]) -> None:
    part, fixed, films = several
    body = describe(part, fixed, films)["points"]["conformal"]
    assert set(body["overall"]) == {"coverage", "mean_set_size", "singleton_share", "empty_share"}
    held = films.margins(fixed.calibration) >= [fixed.point("conformal").thresholds[name] for name in SEVERAL]
    assert _value(body["overall"]["coverage"]) == pytest.approx(held[films.targets == 1].mean())
    assert _value(body["overall"]["coverage"]) == pytest.approx(0.9, abs=0.05)
    assert _value(body["overall"]["mean_set_size"]) == pytest.approx(held.sum(axis=1).mean())
    assert set(body["classes"]) == set(SEVERAL)
    assert all(set(rates) == {"coverage"} for rates in body["classes"].values())
    assert sum(n for row in body["sets"].values() for n in row.values()) == 500
    assert "confusion" not in body


def test_a_binary_point_shows_both_classes() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(300) % 2
    films = scored(rng.normal(3.0 * truth - 1.5, 1.5)[:, None], truth[:, None])
    part = recipe("binary", {"kind": "youden", "name": "screening"}, {"kind": "conformal"})
    found = describe(part, _fixed(part, films, films), films)
    assert list(found["classes"]) == ["pneumonia"]
    scores = found["classes"]["pneumonia"]["scores"]
    assert set(scores) == {"auroc", "auprc", "brier", "nll", "ece", "ece_equal_width", "ece_top_label", READ_OFF}
    assert found["macro"] == scores
    assert "macro_ppv" not in found["points"]["screening"]["overall"]
    assert found["joint"]["brier"]["value"] == pytest.approx(2 * scores["brier"]["value"])  # both classes' errors
    point = found["points"]["screening"]
    assert point["classes"]["normal"]["sensitivity"] == point["classes"]["pneumonia"]["specificity"]
    assert point["classes"]["normal"]["ppv"] == point["classes"]["pneumonia"]["npv"]
    rates = point["classes"]["pneumonia"]
    assert point["overall"]["balanced_accuracy"]["value"] == pytest.approx(
        (rates["sensitivity"]["value"] + rates["specificity"]["value"]) / 2
    )
    assert sum(point["confusion"]["pneumonia"].values()) == 150
    assert set(found["points"]["conformal"]["classes"]) == {"normal", "pneumonia"}


def test_labels_count_the_films_whose_truth_is_known() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random((200, 3)) < [0.5, 0.3, 0.0]).astype(np.float64)
    truth[:20, 0] = np.nan
    films = scored(
        2 * np.nan_to_num(truth) + rng.normal(-1, 1, (200, 3)), truth, tuple(CLASSES["multilabel"]), task="multilabel"
    )
    part = recipe("multilabel", {"kind": "max_f1"}).changed({"decision.calibrators": ["none"]})
    fixed = _fixed(part, films, films)
    found = describe(part, fixed, films)
    thresholds = [fixed.operating_points[0].thresholds[name] for name in CLASSES["multilabel"]]
    said, known = films.logits >= thresholds, np.isfinite(truth)
    body = found["points"]["max-f1"]
    f1 = []
    for k, name in enumerate(("effusion", "mass")):
        y, p = truth[known[:, k], k] == 1, said[known[:, k], k]
        f1.append(metrics.f1_score(y, p))
        assert _value(body["classes"][name]["f1"]) == pytest.approx(f1[-1])
        tn, fp, fn, tp = (int(v) for v in metrics.confusion_matrix(y, p).ravel())
        assert body["confusion"][name] == {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
    assert _value(body["overall"]["macro_f1"]) == pytest.approx(np.mean(f1))
    assert _value(body["overall"]["accuracy"]) == pytest.approx((said == (truth == 1))[known].mean())
    assert found["classes"]["effusion"]["n"] == 180
    assert "sensitivity" not in body["classes"]["hernia"]  # no film shows it
    hernia = body["classes"]["hernia"]["specificity"]
    assert hernia["value"] == 1.0
    assert hernia["ci"] == pytest.approx(binomtest(200, 200).proportion_ci(method="exact"))
    assert "joint" not in found or found["joint"] == {}


def test_three_patients_without_a_miss_prove_little() -> None:
    films = scored([[-2.0], [-1.0], [1.0], [1.5], [2.0], [3.0]], [[0], [0], [1], [1], [1], [1]])
    films = replace(films, patients=np.array(list("abccde")))
    part = recipe("binary", {"kind": "youden", "name": "screening"}).changed({"decision.calibrators": ["none"]})
    rates = describe(part, _fixed(part, films, films), films)["points"]["screening"]
    pneumonia = rates["classes"]["pneumonia"]
    assert pneumonia["sensitivity"]["value"] == pneumonia["specificity"]["value"] == 1.0
    assert pneumonia["sensitivity"]["ci"] == pytest.approx(
        binomtest(3, 3).proportion_ci(method="exact")
    )  # c has two films
    assert pneumonia["specificity"]["ci"] == pytest.approx(binomtest(2, 2).proportion_ci(method="exact"))
    assert rates["overall"]["accuracy"]["ci"] == pytest.approx(binomtest(5, 5).proportion_ci(method="exact"))
    wrong = replace(films, targets=1 - films.targets)
    other = describe(part, _fixed(part, films, films), wrong)["points"]["screening"]["classes"]["pneumonia"]
    assert other["sensitivity"]["ci"] == pytest.approx(binomtest(0, 2).proportion_ci(method="exact"))


def test_films_of_one_class_have_what_can_be_computed(several: tuple[Recipe, Fixed, Scored]) -> None:
    part, fixed, films = several
    normal = describe(part, fixed, films.take(films.targets[:, 0] == 1))
    assert "auroc" not in normal["macro"]
    assert normal["macro"]["brier"]["value"] > 0
    point = normal["points"]["hierarchical"]
    assert "balanced_accuracy" not in point["overall"]
    assert point["overall"]["accuracy"] == point["classes"]["normal"]["sensitivity"]
    assert json.dumps(normal, allow_nan=False)
    nothing = describe(part, fixed, films.take(np.zeros(500, dtype=bool)))
    assert (nothing["n"], nothing["points"]) == (0, {})
