"""app.decision: the rules of operating points, and reasons for review; exact values and properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.bundle.manifest import (
    Calibration,
    IsotonicCalibration,
    IsotonicCurve,
    OperatingPoint,
    TemperatureCalibration,
    VectorTemperatureCalibration,
)
from app.decision import decide, inconsistency, margins, scaled_logits
from app.domain import Decision, ReviewReason, Task
from app.errors import InternalError
from tests.support.decisions import MODERATE, calibrations, manifest, unhurried

BINARY = ("normal", "pneumonia")
THREE = ("normal", "pneumonia", "tuberculosis")


def threshold_point(margin: float) -> OperatingPoint:
    return OperatingPoint(name="screening", rule="threshold", target="", thresholds={"pneumonia": margin})


ARGMAX = OperatingPoint(name="top", rule="argmax", target="")


def hierarchical_point(tuberculosis: float, pneumonia: float) -> OperatingPoint:
    return OperatingPoint(
        name="cascade",
        rule="hierarchical",
        target="",
        thresholds={"tuberculosis": tuberculosis, "pneumonia": pneumonia},
        priority=("tuberculosis", "pneumonia"),
        fallback="normal",
    )


def per_label_point(**thresholds: float) -> OperatingPoint:
    return OperatingPoint(name="labels", rule="per_label", target="", thresholds=thresholds)


def judged(
    task: Task, classes: tuple[str, ...], point: OperatingPoint, logits: list[float], **options: Any
) -> Decision:
    return decide(np.array(logits, dtype=np.float32), manifest(task, classes, point, **options), point)


# binary


def test_binary_shows_both_classes() -> None:
    decision = judged("binary", BINARY, threshold_point(1.0), [2.0])
    positive, negative = decision.classes
    p = 1.0 / (1.0 + math.exp(-2.0))
    assert (positive.name, positive.logit, positive.margin, positive.threshold_margin) == ("pneumonia", 2.0, 2.0, 1.0)
    assert positive.probability == pytest.approx(p, rel=1e-15)
    assert positive.threshold_probability == pytest.approx(1.0 / (1.0 + math.exp(-1.0)), rel=1e-15)
    assert (negative.name, negative.logit, negative.margin) == ("normal", -2.0, -2.0)
    assert negative.probability == 1.0 - positive.probability
    assert (negative.threshold_margin, negative.threshold_probability) == (None, None)
    assert (positive.positive, negative.positive) == (True, False)
    assert (decision.label, decision.positive, decision.confidence) == (
        "pneumonia",
        ("pneumonia",),
        positive.probability,
    )
    assert (decision.task, decision.rule, decision.operating_point) == ("binary", "threshold", "screening")


def test_binary_below_the_threshold_is_the_first_class_whatever_the_probability() -> None:
    decision = judged("binary", BINARY, threshold_point(2.5), [2.0])
    assert (decision.label, decision.positive) == ("normal", ())
    assert decision.confidence == decision.classes[0].probability > 0.88
    assert not any(s.positive for s in decision.classes)


def test_a_margin_equal_to_its_threshold_is_reached() -> None:
    assert judged("binary", BINARY, threshold_point(0.5), [0.5]).label == "pneumonia"
    assert judged("binary", BINARY, threshold_point(float(np.nextafter(0.5, 1))), [0.5]).label == "normal"


def test_the_threshold_is_compared_in_scaled_logits() -> None:
    cold = TemperatureCalibration(method="temperature", temperature=4.0)
    assert judged("binary", BINARY, threshold_point(1.0), [3.9], calibration=cold).label == "normal"
    assert judged("binary", BINARY, threshold_point(1.0), [4.0], calibration=cold).label == "pneumonia"
    assert judged("binary", BINARY, threshold_point(1.0), [4.0], calibration=cold).classes[0].logit == 4.0


@unhurried
@given(st.floats(-1e4, 1e4, width=32), st.floats(-50, 50), calibrations(1))
def test_platt_and_isotonic_never_change_a_binary_decision(
    z: float, threshold: float, calibration: Calibration
) -> None:
    point = threshold_point(threshold)
    decision = judged("binary", BINARY, point, [z], calibration=calibration)
    margin = float(scaled_logits([z], calibration)[0])
    assert decision.label == BINARY[margin >= threshold]
    score = next(s for s in decision.classes if s.name == "pneumonia")
    assert score.threshold_probability is not None
    if score.positive:  # what is shown agrees with what was decided
        assert score.probability >= score.threshold_probability * (1 - 1e-14)
    else:
        assert score.probability <= score.threshold_probability * (1 + 1e-14)
    assert decision.confidence == max(s.probability for s in decision.classes)


@unhurried
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-50, 50))
def test_a_higher_logit_never_takes_a_positive_back(a: float, b: float, threshold: float) -> None:
    low, high = sorted((a, b))
    point = threshold_point(threshold)
    assert judged("binary", BINARY, point, [low]).label != "pneumonia" or (
        judged("binary", BINARY, point, [high]).label == "pneumonia"
    )


# multiclass


def test_argmax_takes_the_highest_margin_and_ties_go_to_the_lower_index() -> None:
    assert judged("multiclass", THREE, ARGMAX, [0.0, 1.0, 2.0]).label == "tuberculosis"
    tied = judged("multiclass", THREE, ARGMAX, [0.0, 2.0, 2.0])
    assert (tied.label, tied.positive) == ("pneumonia", ("pneumonia",))
    assert [s.name for s in tied.classes] == ["pneumonia", "tuberculosis", "normal"]
    assert all(s.threshold_margin is None and s.threshold_probability is None for s in tied.classes)


def test_equal_logits_tie_whatever_the_order_of_summation() -> None:
    names = ("a", "b", "c", "d", "e")
    m = margins("multiclass", [0.0, 2.0, 0.0, 0.0, 2.0])
    assert m[1] == m[4]
    assert m[0] == m[2] == m[3]
    decision = judged("multiclass", names, ARGMAX, [0.0, 2.0, 0.0, 0.0, 2.0])
    assert decision.label == "b"
    assert [s.name for s in decision.classes] == ["b", "e", "a", "c", "d"]


def test_argmax_on_the_absence_class_finds_nothing() -> None:
    decision = judged("multiclass", THREE, ARGMAX, [3.0, 1.0, 2.0])
    assert (decision.label, decision.positive) == ("normal", ())
    assert not any(s.positive for s in decision.classes)


def test_hierarchical_takes_the_first_class_in_priority_order_that_reaches_its_threshold() -> None:
    point = hierarchical_point(tuberculosis=-1.0, pneumonia=0.0)
    logits = [0.0, 3.0, 2.5]  # tuberculosis margin about -0.6, pneumonia about 0.4: both reach theirs
    decision = judged("multiclass", THREE, point, logits)
    assert (decision.label, decision.positive) == ("tuberculosis", ("tuberculosis",))
    by_name = {s.name: s for s in decision.classes}
    assert by_name["pneumonia"].margin >= 0.0
    assert by_name["tuberculosis"].positive
    assert not by_name["pneumonia"].positive
    assert by_name["normal"].threshold_margin is None
    assert decision.classes[0].name == "pneumonia"  # sorted by probability, whatever the label


def test_hierarchical_falls_to_the_second_class_and_then_to_the_fallback() -> None:
    second = judged("multiclass", THREE, hierarchical_point(tuberculosis=5.0, pneumonia=0.0), [0.0, 3.0, 2.5])
    assert (second.label, second.positive) == ("pneumonia", ("pneumonia",))
    none = judged("multiclass", THREE, hierarchical_point(tuberculosis=5.0, pneumonia=5.0), [0.0, 3.0, 2.5])
    assert (none.label, none.positive) == ("normal", ())


@unhurried
@given(st.lists(MODERATE, min_size=3, max_size=3), MODERATE, MODERATE, calibrations(3))
def test_a_calibration_never_changes_a_multiclass_decision_on_its_scaled_logits(
    logits: list[float], t1: float, t2: float, calibration: Calibration
) -> None:
    point = hierarchical_point(tuberculosis=t1, pneumonia=t2)
    z = np.array(logits, dtype=np.float32)
    decision = decide(z, manifest("multiclass", THREE, point, calibration=calibration), point)
    m = margins("multiclass", scaled_logits(z, calibration))
    expected = "tuberculosis" if m[2] >= t1 else "pneumonia" if m[1] >= t2 else "normal"
    assert decision.label == expected
    top = decide(z, manifest("multiclass", THREE, ARGMAX, calibration=calibration), ARGMAX)
    assert top.label == THREE[int(np.argmax(scaled_logits(z, calibration)))]


@unhurried
@given(st.lists(st.integers(-20, 20), min_size=3, max_size=3, unique=True), st.permutations(range(3)))
def test_argmax_follows_a_permutation_of_the_classes(logits: list[int], order: list[int]) -> None:
    names = tuple(THREE[i] for i in order)
    straight = judged("multiclass", THREE, ARGMAX, [float(v) for v in logits])
    permuted = judged("multiclass", names, ARGMAX, [float(logits[i]) for i in order])
    assert permuted.label == straight.label
    assert [s.name for s in permuted.classes] == [s.name for s in straight.classes]


# multilabel


LABELS = ("effusion", "pneumonia", "nodule")


def test_per_label_takes_every_label_at_its_threshold_and_the_most_probable_names_the_film() -> None:
    point = per_label_point(effusion=0.0, pneumonia=-2.0, nodule=1.0)
    decision = judged("multilabel", LABELS, point, [0.0, -1.0, 0.9])
    assert decision.positive == ("effusion", "pneumonia")
    assert decision.label == "effusion"  # nodule is more probable but below its own threshold
    assert [s.name for s in decision.classes] == ["nodule", "effusion", "pneumonia"]
    assert decision.confidence is None


def test_per_label_without_a_positive_is_no_finding() -> None:
    decision = judged("multilabel", LABELS, per_label_point(effusion=1.0, pneumonia=1.0, nodule=1.0), [0.0, 0.0, 0.0])
    assert (decision.label, decision.positive) == ("no_finding", ())


@pytest.mark.parametrize(
    ("logits", "label", "positive"),
    [([5.0, -1.0], "no_finding", ()), ([5.0, 1.0], "effusion", ("effusion",)), ([-5.0, -1.0], "no_finding", ())],
)
def test_a_no_finding_class_never_stands_beside_a_finding(
    logits: list[float], label: str, positive: tuple[str, ...]
) -> None:
    point = per_label_point(no_finding=0.0, effusion=0.0)
    decision = judged("multilabel", ("no_finding", "effusion"), point, logits)
    assert (decision.label, decision.positive) == (label, positive)


@unhurried
@given(st.lists(MODERATE, min_size=3, max_size=3), st.lists(MODERATE, min_size=3, max_size=3), calibrations(3))
def test_per_label_treats_each_label_alone(
    logits: list[float], thresholds: list[float], calibration: Calibration
) -> None:
    point = per_label_point(**dict(zip(LABELS, thresholds, strict=True)))
    z = np.array(logits, dtype=np.float32)
    decision = decide(z, manifest("multilabel", LABELS, point, calibration=calibration), point)
    m = scaled_logits(z, calibration)
    assert decision.positive == tuple(n for n, v, t in zip(LABELS, m, thresholds, strict=True) if v >= t)
    assert decision.label in (decision.positive or ("no_finding",))
    assert [s.name in decision.positive for s in decision.classes] == [s.positive for s in decision.classes]


# review


@pytest.mark.parametrize(("z", "low"), [(0.8, True), (0.9, False), (-0.8, True), (-0.9, False)])  # p = 0.690 and 0.711
def test_low_confidence_looks_at_the_higher_class(z: float, low: bool) -> None:
    decision = judged("binary", BINARY, threshold_point(3.0), [z])
    assert (ReviewReason.LOW_CONFIDENCE in decision.review_reasons) is low
    assert decision.review_required is low


def test_multilabel_has_no_confidence_to_be_low() -> None:
    point = per_label_point(effusion=5.0, pneumonia=5.0, nodule=5.0)
    assert judged("multilabel", LABELS, point, [0.0, 0.0, 0.0]).review_reasons == ()


@pytest.mark.parametrize(("z", "near"), [(2.75, True), (3.25, True), (2.5, False), (3.5, False)])
def test_borderline_is_near_the_threshold_on_either_side(z: float, near: bool) -> None:
    decision = judged("binary", BINARY, threshold_point(3.0), [z], borderline=0.25)
    assert decision.review_reasons == ((ReviewReason.BORDERLINE,) if near else ())


def test_borderline_by_any_class_with_a_threshold() -> None:
    point = per_label_point(effusion=5.0, pneumonia=5.0, nodule=-3.0)
    assert judged("multilabel", LABELS, point, [0.0, 0.0, -3.1], borderline=0.25).review_reasons == (
        ReviewReason.BORDERLINE,
    )


@pytest.mark.parametrize(("runner_up", "near"), [(4.9, True), (3.0, False)])
def test_borderline_of_argmax_is_the_runner_up(runner_up: float, near: bool) -> None:
    decision = judged("multiclass", THREE, ARGMAX, [5.0, runner_up, -9.0], borderline=0.3)
    assert (ReviewReason.BORDERLINE in decision.review_reasons) is near


def test_reasons_keep_their_order_and_quality_comes_from_outside() -> None:
    point = threshold_point(0.0)
    doubtful = decide(
        np.array([0.1], dtype=np.float32), manifest("binary", BINARY, point, borderline=0.5), point, quality_doubt=True
    )
    assert doubtful.review_reasons == (ReviewReason.LOW_CONFIDENCE, ReviewReason.BORDERLINE, ReviewReason.QUALITY)


# what must not become a decision


@pytest.mark.parametrize("logits", [[float("nan")], [float("inf")], [0.0, 0.0], []])
def test_logits_that_are_no_answer_are_an_internal_error(logits: list[float]) -> None:
    point = threshold_point(0.0)
    z: NDArray[np.float32] = np.array(logits, dtype=np.float32)
    with pytest.raises(InternalError) as caught:
        decide(z, manifest("binary", BINARY, point), point)
    assert "finite logits wanted" in str(caught.value.__cause__)


@pytest.mark.parametrize("huge", [1e4, -1e4, 3e38, -3e38])
def test_huge_logits_are_decided_without_a_warning(huge: float) -> None:
    binary = judged("binary", BINARY, threshold_point(0.0), [huge])
    assert binary.label == BINARY[huge > 0]
    assert binary.confidence == 1.0
    three = judged("multiclass", THREE, ARGMAX, [0.0, huge, 0.0])
    assert three.label == ("pneumonia" if huge > 0 else "normal")
    assert all(math.isfinite(s.probability) and math.isfinite(s.margin) for s in three.classes)


# conformal


def conformal_point(**thresholds: float) -> OperatingPoint:
    return OperatingPoint(name="sets", rule="conformal", target="coverage 0.90", thresholds=thresholds)


@pytest.mark.parametrize(
    ("logit", "in_set", "label", "positive"),
    [
        (2.0, ("pneumonia",), "pneumonia", ("pneumonia",)),
        (0.5, ("normal", "pneumonia"), "pneumonia", ("pneumonia",)),
        (-0.5, ("normal", "pneumonia"), "normal", ("pneumonia",)),
        (-1.0, ("normal", "pneumonia"), "normal", ("pneumonia",)),  # a margin that equals its threshold has reached it
        (-1.5, ("normal",), "normal", ()),
        (0.0, ("normal", "pneumonia"), "normal", ("pneumonia",)),
    ],
)
def test_binary_conformal_compares_the_negative_class_by_minus_the_margin(
    logit: float, in_set: tuple[str, ...], label: str, positive: tuple[str, ...]
) -> None:
    decision = judged("binary", BINARY, conformal_point(normal=-0.75, pneumonia=-1.0), [logit], low_confidence=0.0)
    assert (decision.prediction_set, decision.label, decision.positive) == (in_set, label, positive)
    assert (ReviewReason.AMBIGUOUS in decision.review_reasons) is (len(in_set) != 1)


def test_an_empty_prediction_set_is_ambiguous_and_still_has_a_label() -> None:
    decision = judged("binary", BINARY, conformal_point(normal=2.0, pneumonia=3.0), [1.0], low_confidence=0.0)
    assert (decision.prediction_set, decision.label, decision.positive) == ((), "pneumonia", ())
    assert decision.review_reasons == (ReviewReason.AMBIGUOUS,)


def test_multiclass_conformal_lists_the_findings_of_the_set_in_the_order_of_the_bundle() -> None:
    point = conformal_point(normal=-1.0, pneumonia=-1.0, tuberculosis=-3.0)
    decision = judged("multiclass", THREE, point, [2.0, 1.5, 0.0], low_confidence=0.0)
    assert decision.prediction_set == ("normal", "pneumonia", "tuberculosis")
    assert (decision.label, decision.positive) == ("normal", ("pneumonia", "tuberculosis"))
    sure = judged("multiclass", THREE, point, [9.0, 0.0, 0.0], low_confidence=0.0)
    assert (sure.prediction_set, sure.positive, sure.review_reasons) == (("normal",), (), ())


def test_other_rules_have_no_prediction_set() -> None:
    assert judged("binary", BINARY, threshold_point(0.0), [1.0]).prediction_set is None


@given(MODERATE, MODERATE, st.data())
def test_the_shown_threshold_of_the_negative_class_agrees_with_its_margin(
    logit: float, threshold: float, data: st.DataObject
) -> None:
    calibration = data.draw(calibrations(1))
    decision = judged(
        "binary", BINARY, conformal_point(normal=threshold, pneumonia=0.0), [logit], calibration=calibration
    )
    (score,) = (c for c in decision.classes if c.name == "normal")
    assert score.threshold_probability is not None
    if score.margin >= threshold:
        assert score.probability >= score.threshold_probability
    else:
        assert score.probability <= score.threshold_probability


def test_the_negative_class_of_an_isotonic_bundle_shows_its_threshold_through_the_same_curve() -> None:
    curve = IsotonicCurve(margins=(-2.0, 2.0), probabilities=(0.1, 0.9))
    calibration = IsotonicCalibration(method="isotonic", curves=(curve,))
    point = conformal_point(normal=-1.0, pneumonia=0.0)
    decision = judged("binary", BINARY, point, [1.0], calibration=calibration)
    (score,) = (c for c in decision.classes if c.name == "normal")
    assert score.threshold_probability == score.probability == pytest.approx(0.3)


# one temperature per logit


def test_a_vector_of_temperatures_can_change_which_class_is_highest() -> None:
    calibration = VectorTemperatureCalibration(method="vector_temperature", temperatures=(1.0, 4.0, 1.0))
    decision = judged("multiclass", THREE, ARGMAX, [2.0, 3.0, 0.0], calibration=calibration)
    assert decision.label == "normal" == decision.classes[0].name
    assert decision.classes[0].margin == pytest.approx(2.0 - math.log(math.exp(0.75) + 1.0))


def test_a_vector_of_temperatures_scales_each_label_alone() -> None:
    calibration = VectorTemperatureCalibration(method="vector_temperature", temperatures=(2.0, 4.0, 0.5))
    assert scaled_logits([1.0, 1.0, 1.0], calibration).tolist() == [0.5, 0.25, 2.0]


# contradictions of a multilabel answer


@pytest.mark.parametrize(
    ("logits", "said"),
    [
        ([1.0, -1.0], None),  # no_finding alone
        ([-1.0, 1.0], None),  # a finding alone
        ([1.0, 1.0], "no_finding and effusion"),
        ([-1.0, -1.0], "no label, not even no_finding"),
    ],
)
def test_no_finding_must_agree_with_the_findings(logits: list[float], said: str | None) -> None:
    point = per_label_point(no_finding=0.0, effusion=0.0)
    classes = ("no_finding", "effusion")
    decision = judged("multilabel", classes, point, logits)
    notice = inconsistency(manifest("multilabel", classes, point), decision)
    assert notice is None if said is None else notice is not None and said in notice.message
    assert notice is None or notice.code == "inconsistent_labels"


def test_without_a_class_no_finding_nothing_contradicts() -> None:
    point = per_label_point(effusion=0.0, nodule=0.0)
    classes = ("effusion", "nodule")
    decision = judged("multilabel", classes, point, [-1.0, -1.0])
    assert inconsistency(manifest("multilabel", classes, point), decision) is None
