from __future__ import annotations

import tomllib

import numpy as np
import pytest

from app.bundle.manifest import OperatingPoint
from tests.training.judging.made import NONE, many, pixels, scored, threshold_rule
from tests.training.phantom_data import TINY
from training.judging.answers import Rule
from training.judging.baseline import baseline_figures, fit_baseline, matched
from training.recipe import parse_recipe

RECIPE = parse_recipe(tomllib.loads(TINY), "made")
CLASSES = ("normal", "pneumonia", "tuberculosis")


def test_matched_at_the_networks_recall_of_normal() -> None:
    """The network calls 3 of 4 normals normal. The baseline, allowed one false alarm too, catches what scores below its lowest normal but
    one: one pneumonia of two and no tuberculosis; the network catches both tuberculosis and one pneumonia."""
    truth = np.eye(3)[[0, 0, 0, 0, 1, 1, 2, 2]]
    network = many(
        "multiclass",
        CLASSES,
        np.array([[5.0, 0, 0], [5, 0, 0], [5, 0, 0], [0, 5, 0], [0, 5, 0], [5, 0, 0], [0, 0, 5], [0, 5, 0]]),
        truth,
    )
    normal = np.array([1.0, 2, 3, 4, 0.5, 2.5, 5, 6])
    baseline = many("multiclass", CLASSES, np.stack([normal, np.zeros(8), np.zeros(8)], axis=1), truth)
    rule = Rule(CLASSES, NONE, OperatingPoint(name="p", rule="argmax", target="made"))
    found = matched(baseline, network, rule, RECIPE)
    assert found["recall"]["value"] == 0.75
    assert {k: v["value"] for k, v in found["network"].items()} == {"pneumonia": 0.5, "tuberculosis": 1.0}
    assert {k: v["value"] for k, v in found["baseline"].items()} == {"pneumonia": 0.5, "tuberculosis": 0.0}


@pytest.mark.parametrize("alarms", [0, 1, 7, 10, 29, 57, 99, 100])
def test_the_baseline_gets_as_many_false_alarms_as_the_network(alarms: int) -> None:
    """100 normals and, at the same margins and a hair below each, 100 pneumonias: the share of pneumonias called shows how far it went."""
    rng = np.random.default_rng(alarms)
    normal = rng.permutation(100).astype(np.float64)
    y = [0] * 100 + [1] * 100
    network = scored(np.concatenate([np.where(np.arange(100) < alarms, 1.0, -1.0), np.ones(100)]), y)
    baseline = scored(np.concatenate([normal, normal + 1e-6]), y)  # the higher the logit, the lower the normal margin
    found = matched(baseline, network, threshold_rule(), RECIPE)
    assert found["recall"]["value"] == pytest.approx(1 - alarms / 100)
    assert found["baseline"]["pneumonia"]["value"] == pytest.approx(min(alarms + 1, 100) / 100)


def test_a_baseline_of_the_network_itself_matches_it() -> None:
    rng = np.random.default_rng(0)
    y = [0, 1] * 40
    films = scored(np.where(np.array(y) == 1, 1.0, -1.0) + rng.standard_normal(80), y)
    found = matched(films, films, threshold_rule(), RECIPE)
    assert found["baseline"]["pneumonia"]["value"] == pytest.approx(found["network"]["pneumonia"]["value"], abs=0.03)


def test_the_thumbnail_classifier_is_described_like_a_run() -> None:
    train, fit, report = pixels(120), pixels(60, first=1000), pixels(60, first=2000)
    baseline = fit_baseline(train, fit, report, RECIPE)
    assert {p.name for p in baseline.fixed.operating_points} == {"screening", "sensitivity-90", "rule-in"}
    found = baseline_figures(baseline, report, None, baseline.fixed, RECIPE)
    assert found["n"] == 60
    assert found["classes"]["pneumonia"]["scores"]["auroc"]["value"] > 0.6  # the opacity is seen at 32 px
    assert set(found["points"]["screening"]["classes"]) == {"normal", "pneumonia"}
    assert "matched" not in found
