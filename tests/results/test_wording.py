from __future__ import annotations

import pytest

from app.bundle.manifest import ConformalMeasured, Estimate
from app.domain import ClassScore, ReviewReason
from app.results import wording
from tests.results import samples


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"),
        (1.0, "1.000"),
        (0.0001, "<0.001"),
        (0.9999, ">0.999"),
        (0.001, "0.001"),
        (0.999, "0.999"),
        (0.5, "0.500"),
    ],
)
def test_a_probability_is_never_rounded_to_certainty(value: float, shown: str) -> None:
    assert wording.probability(value) == shown


def test_every_review_reason_has_its_words() -> None:
    for reason in ReviewReason:
        assert str(reason) in wording._REASONS


def test_no_review() -> None:
    assert wording.review(samples.report(decision=samples.decision(review_reasons=()))).startswith("No reason")


def test_a_figure_without_interval() -> None:
    assert wording._figure(Estimate(value=0.5)) == "0.500"


def test_a_prediction_set_and_its_coverage_are_told() -> None:
    found = ConformalMeasured(
        coverage=Estimate(value=0.91, ci=(0.88, 0.94)), mean_set_size=Estimate(value=1.2), data="report half", n=500
    )
    point = samples.operating_point().model_copy(update={"rule": "conformal", "conformal": found})
    decided = samples.decision(prediction_set=("normal", "pneumonia"))
    lines = wording.operating_point(samples.report(point=point, decision=decided))
    assert lines[1:3] == (
        "Prediction set, what cannot be ruled out: normal, pneumonia.",
        "Measured on 500 films (report half): coverage 0.910 (95 % CI 0.880 to 0.940), mean size of a set 1.200.",
    )
    nothing = wording.operating_point(samples.report(decision=samples.decision(prediction_set=())))
    assert "no class" in nothing[1]


def test_a_restriction_is_said_only_where_there_is_one() -> None:
    assert wording.restriction(samples.report()) == ()
    assert wording.restriction(samples.report(restriction="research-only")) == ("NOT FOR PATIENTS: research-only",)


@pytest.mark.parametrize(
    ("margin", "threshold", "positive", "decided"),
    [(1.0, 0.5, True, True), (0.0, 0.5, False, True), (1.0, 0.5, False, False), (1.0, None, False, False)],
)
def test_a_threshold_is_shown_where_it_decided(
    margin: float, threshold: float | None, positive: bool, decided: bool
) -> None:
    score = ClassScore("nodule", 0.5, margin, margin, threshold, None if threshold is None else 0.6, positive)
    assert wording.decided_by_threshold(score) is decided
