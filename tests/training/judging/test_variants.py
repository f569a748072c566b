"""What a variant costs, on films with figures that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from app.bundle.manifest import NoCalibration, OperatingPoint, PlattCalibration, TemperatureCalibration
from app.bundle.store import BundleRef, BundleStore
from app.errors import ConfigurationError
from tests.training.judging.synthetic import scored, softmax_films
from tests.training.publishing.figure_files import recipe_of
from training.judging.points import operating_points
from training.judging.variants import Deciding, beside, flipped, probability_gap, refitted, threshold_gap
from training.places import CHECKOUT

NONE = NoCalibration(method="none")
LOGITS = np.array([-2.0, -1.0, -0.2, 0.1, 1.0, 2.0])[:, None]
TRUTH = [0, 0, 1, 0, 1, 1]


def _at(**thresholds: float) -> Deciding:
    points = tuple(
        OperatingPoint(name=name, rule="threshold", target="made", thresholds={"pneumonia": value})
        for name, value in thresholds.items()
    )
    return Deciding(NONE, points)


def test_every_figure_as_counted_by_hand() -> None:
    """0.4 more carries the third film, a positive one, over 0 and past the fourth: one more of the nine pairs is in order."""
    shift = np.array([0.0, 0.0, 0.4, 0.0, -0.1, 0.0])[:, None]
    own = _at(screening=0.0, strict=1.5)
    found = beside(scored(LOGITS, TRUTH), scored(LOGITS + shift, TRUTH), (own, own), recipe_of(), "made films")
    assert (found.n, found.data) == (6, "made films")
    assert found.logit_shift_max == pytest.approx(0.4)
    assert found.logit_shift_mean == pytest.approx(0.5 / 6)
    assert found.flips == {"screening": 1, "strict": 0}
    change = found.auroc_change["pneumonia"]
    assert change.value == pytest.approx(1 / 9)
    assert change.ci is not None
    assert change.ci[0] <= change.value <= change.ci[1]


def test_each_side_decides_by_its_own_thresholds() -> None:
    """Everything moved by 1, thresholds too: no decision changes, nor the order."""
    own, moved = _at(screening=0.0, strict=1.5), _at(screening=1.0, strict=2.5)
    a, b = scored(LOGITS, TRUTH), scored(LOGITS + 1, TRUTH)
    assert beside(a, b, (own, moved), recipe_of(), "made").flips == {"screening": 0, "strict": 0}
    assert beside(a, b, (own, own), recipe_of(), "made").flips == {"screening": 2, "strict": 1}
    assert beside(a, b, (own, moved), recipe_of(), "made").auroc_change["pneumonia"].ci == (0.0, 0.0)
    cooled = Deciding(TemperatureCalibration(method="temperature", temperature=2), own.points)
    twice = scored(2 * LOGITS, TRUTH)
    assert beside(a, twice, (own, cooled), recipe_of(), "made").flips == {"screening": 0, "strict": 0}
    assert beside(a, twice, (own, own), recipe_of(), "made").flips == {"screening": 0, "strict": 1}


def test_both_sides_are_resampled_alike_and_by_patients() -> None:
    """The same change in every film cancels in every replicate, however wide the interval of the AUROC itself is."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 60)
    logits = (truth + rng.normal(0, 1, 60))[:, None]
    noise = rng.normal(0, 0.5, (60, 1))
    a, b = scored(logits, truth, films_per_patient=5), scored(logits + noise, truth, films_per_patient=5)
    change = beside(a, b, (_at(x=0.0), _at(x=0.0)), recipe_of(), "made").auroc_change["pneumonia"]
    assert change.ci is not None
    assert change.ci[0] < change.value < change.ci[1]
    swapped = beside(b, a, (_at(x=0.0), _at(x=0.0)), recipe_of(), "made").auroc_change["pneumonia"]
    assert swapped.value == pytest.approx(-change.value)


def test_a_prediction_set_that_changes_is_a_change() -> None:
    """The label stays, a second class enters the set."""
    point = OperatingPoint(name="sets", rule="conformal", target="made", thresholds={"normal": -1.0, "pneumonia": -1.0})
    by = Deciding(NONE, (point,))
    a, b = scored([[2.0]], [1]), scored([[0.5]], [1])
    assert flipped(a, b, (by, by), (point, point), ("normal", "pneumonia")).tolist() == [True]
    assert flipped(a, a, (by, by), (point, point), ("normal", "pneumonia")).tolist() == [False]


def test_a_second_finding_that_changes_is_a_change() -> None:
    recipe = recipe_of("multilabel")
    thresholds = dict.fromkeys(recipe.data.classes, 0.0)
    point = OperatingPoint(name="max-f1", rule="per_label", target="made", thresholds=thresholds)
    by = Deciding(NONE, (point,))
    made = [scored([[-5.0, 3.0, z, -5.0]], [[0, 1, 0, 0]], recipe.data.outputs, task="multilabel") for z in (-1.0, 1.0)]
    assert flipped(made[0], made[1], (by, by), (point, point), recipe.data.classes).tolist() == [True]


def test_a_class_of_one_truth_has_no_auroc() -> None:
    recipe = recipe_of("multiclass")
    films = softmax_films(30, 3)
    only = films.take(films.targets[:, 2] == 0)
    by = Deciding(NONE, (OperatingPoint(name="argmax", rule="argmax", target="made"),))
    assert set(beside(only, only, (by, by), recipe, "made").auroc_change) == {"normal", "pneumonia"}
    with pytest.raises(ConfigurationError, match="no_figure"):
        beside(
            scored([[1.0], [2.0]], [1, 1]),
            scored([[1.0], [2.0]], [1, 1]),
            (_at(x=0.0), _at(x=0.0)),
            recipe_of(),
            "made",
        )


def test_refitted_on_other_logits_the_same_decisions_come_out() -> None:
    """Logits of twice the size: twice the temperature, and the thresholds stay, being margins of scaled logits."""
    recipe = recipe_of()
    manifest = BundleStore(CHECKOUT / "model_bundles").read_manifest(BundleRef("pneumonia-resnet18", "1.1.0"))
    manifest = manifest.model_copy(update={"calibration": TemperatureCalibration(method="temperature", temperature=1)})
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 2, 200)
    logits = (2 * truth - 1 + rng.normal(0, 1, 200))[:, None]
    once, twice = (refitted(recipe, manifest, [scored(factor * logits, truth)]) for factor in (1, 2))
    assert isinstance(once.calibration, TemperatureCalibration)
    assert isinstance(twice.calibration, TemperatureCalibration)
    assert twice.calibration.temperature == pytest.approx(2 * once.calibration.temperature, rel=1e-3)
    assert threshold_gap(once, twice) < 1e-3
    kept = refitted(recipe, manifest, [scored(2 * logits, truth)], keep=once.calibration)
    assert kept.calibration == once.calibration
    assert kept.thresholds["screening"]["pneumonia"] == pytest.approx(
        2 * once.thresholds["screening"]["pneumonia"], abs=1e-3
    )
    assert threshold_gap(once, kept) > 0.01
    assert [p.name for p in kept.points] == [p.name for p in operating_points(recipe, [scored(logits, truth)], NONE)[0]]


def test_a_calibrator_that_the_films_do_not_bear_is_an_error() -> None:
    manifest = BundleStore(CHECKOUT / "model_bundles").read_manifest(BundleRef("pneumonia-resnet18", "1.1.0"))
    assert manifest.calibration.method == "platt"
    with pytest.raises(ConfigurationError, match="no_calibrator"):
        refitted(recipe_of(), manifest, [scored(-LOGITS, TRUTH)])


def test_the_gap_between_calibrators_is_one_of_shown_probabilities() -> None:
    platt = PlattCalibration(method="platt", slope=(1.0,), intercept=(1.0,))
    films = scored([[0.0], [50.0]], [0, 1])
    assert probability_gap(films, NONE, platt) == pytest.approx(1 / (1 + np.exp(-1)) - 0.5)
