from __future__ import annotations

import pytest

from app.bundle.manifest import Estimate
from app.domain import ReviewReason
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
