from __future__ import annotations

import numpy as np
import pytest

from app.domain import InputStatistics
from tests.training.judging.synthetic import scored, softmax_films
from tests.training.judging.test_points import HIERARCHICAL, recipe
from training.judging.decide import Fixed, Halves, fix
from training.judging.judge import CLEAN
from training.judging.scored import Scored, mix
from training.recipe import Recipe

POINTS = (
    {"kind": "youden", "name": "screening"},
    {"kind": "sensitivity", "name": "sensitivity-90"},
    {"kind": "specificity", "name": "rule-in"},
)
SHIFTS = {CLEAN: 0.0, "blur-1": 1.0, "gamma-1": -1.0}


def _set(name: str, shift: float, seed: int, n: int = 400) -> Scored:
    """Half the films positive; logits about +-2, moved by `shift`. Two films a patient."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2
    return scored(rng.normal(4.0 * truth - 2.0 + shift, 1.5)[:, None], truth[:, None], name=name, films_per_patient=2)


def _statistics(n: int = 1001) -> list[InputStatistics]:
    return [InputStatistics(100 + 0.1 * i, 40 + 0.01 * i, 1.0, 0.0, 0.0, 5.0, 100, 100) for i in range(n)]


@pytest.fixture
def binary() -> Recipe:
    return recipe("binary", *POINTS)


@pytest.fixture
def halves() -> Halves:
    fit = [_set(name, shift, seed) for seed, (name, shift) in enumerate(SHIFTS.items())]
    report = [_set(name, shift, seed + 9) for seed, (name, shift) in enumerate(SHIFTS.items())]
    return Halves(fit, report)


def test_points_come_in_the_recipes_order(binary: Recipe, halves: Halves) -> None:
    fixed = fix(binary, halves, _statistics())
    assert [p.name for p in fixed.operating_points] == ["screening", "sensitivity-90", "rule-in"]
    assert fixed.threshold("sensitivity-90") < fixed.threshold("screening") < fixed.threshold("rule-in")
    assert fixed.default_operating_point == "screening"
    assert Fixed.model_validate_json(fixed.model_dump_json()) == fixed


def test_the_report_half_derives_no_threshold(binary: Recipe, halves: Halves) -> None:
    other = Halves(halves.fit, [_set(s.name, 3.0, 50 + i) for i, s in enumerate(halves.report)])
    only = binary.changed({"decision.calibrators": ["none"]})
    here, there = fix(only, halves, _statistics()), fix(only, other, _statistics())
    assert here.operating_points == there.operating_points
    assert here.review != there.review


def test_every_candidate_is_kept_with_its_figures(binary: Recipe, halves: Halves) -> None:
    fixed = fix(binary, halves, _statistics())
    assert list(fixed.candidates) == ["none", "temperature", "platt", "isotonic"]
    assert fixed.candidates[fixed.calibration.method].calibration == fixed.calibration
    assert all(c.ece.ci is not None for c in fixed.candidates.values())


def test_the_borderline_margin_covers_its_share_of_the_clean_report_half(binary: Recipe, halves: Halves) -> None:
    fixed = fix(binary, halves, _statistics())
    judged = halves.report[0].judged(fixed.calibration)
    near = np.abs(judged.margins - fixed.threshold("screening")) <= fixed.review.borderline_margin
    assert near.mean() == pytest.approx(0.10, abs=0.005)


def test_the_borderline_of_a_priority_rule_is_the_nearest_of_its_thresholds() -> None:
    fit, report = softmax_films(600, seed=0), softmax_films(600, seed=1)
    part = recipe("multiclass", HIERARCHICAL, {"kind": "argmax"})
    fixed = fix(part, Halves([fit], [report]), _statistics())
    margins = report.margins(fixed.calibration)[:, 1:]
    thresholds = [fixed.operating_points[0].thresholds[name] for name in ("pneumonia", "tuberculosis")]
    near = (np.abs(margins - thresholds) <= fixed.review.borderline_margin).any(axis=1)
    assert near.mean() == pytest.approx(0.10, abs=0.005)
    by_argmax = fix(
        part.changed({"decision.default_operating_point": "argmax"}), Halves([fit], [report]), _statistics()
    )
    ranked = np.sort(report.margins(fixed.calibration), axis=1)
    close = ranked[:, 2] - ranked[:, 1] <= by_argmax.review.borderline_margin
    assert close.mean() == pytest.approx(0.10, abs=0.005)


def test_quality_limits_are_percentiles_of_the_training_films(binary: Recipe, halves: Halves) -> None:
    quality = fix(binary, halves, _statistics()).quality
    assert quality.under_exposed_mean_below == pytest.approx(100.5)
    assert quality.over_exposed_mean_above == pytest.approx(199.5)
    assert quality.low_contrast_std_below == pytest.approx(40.05)


def test_a_mix_keeps_patients_together(halves: Halves) -> None:
    mixed = mix(halves.fit)
    assert len(mixed) == 1200
    assert set(mixed.patients) == set(halves.fit[0].patients)
    np.testing.assert_array_equal(mixed.logits[400:800], halves.fit[1].logits)
