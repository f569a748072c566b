from __future__ import annotations

import io
from typing import cast

import highdicom as hd
import pytest
from highdicom.sr import MeasurementReport
from hypothesis import given, settings
from pydicom.dataset import Dataset

from app.domain import ClassScore, Source
from app.results import codes, make, uids
from tests.results import readback, samples
from tests.results.test_identity import odd_sources


def number(group: Dataset, meaning: str) -> float:
    (item,) = readback.named(group, meaning)
    return float(item.MeasuredValueSequence[0].FloatingPointValue)


def groups(data: Dataset) -> list[Dataset]:
    return readback.named(data, "Measurement Group")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return readback.dataset(make("sr", samples.report()))


def test_it_is_a_preliminary_unverified_measurement_report(data: Dataset) -> None:
    assert (data.CompletionFlag, data.VerificationFlag, data.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert data.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (data.Modality, data.SeriesNumber) == ("SR", 9701)


def test_one_group_per_class_in_the_order_of_the_decision(data: Dataset) -> None:
    findings = [readback.named(g, "Finding")[0].ConceptCodeSequence[0].CodeMeaning for g in groups(data)]
    assert findings == ["Pneumonia", "Normal"]


def test_the_numbers_of_a_class(data: Dataset) -> None:
    """Exactly those of the decision: the audit row holds the same float."""
    pneumonia, normal = groups(data)
    score = samples.decision().classes[0]
    assert number(pneumonia, codes.PROBABILITY.meaning) == score.probability
    assert number(pneumonia, codes.MARGIN.meaning) == score.margin
    assert number(pneumonia, codes.THRESHOLD_MARGIN.meaning) == score.threshold_margin
    assert number(pneumonia, codes.THRESHOLD_PROBABILITY.meaning) == score.threshold_probability
    assert readback.named(normal, codes.THRESHOLD_MARGIN.meaning) == []


def test_the_decision_of_a_class(data: Dataset) -> None:
    decided = [readback.named(g, codes.DECISION.meaning)[0].ConceptCodeSequence[0].CodeMeaning for g in groups(data)]
    assert decided == ["Positive", "Negative"]


def test_the_algorithm_its_version_and_what_the_numbers_depend_on(data: Dataset) -> None:
    for group in groups(data):
        assert readback.named(group, "Algorithm Name")[0].TextValue == "pneumonia-resnet18"
        assert readback.named(group, "Algorithm Version")[0].TextValue == "1.0.0"
        parameters = [item.TextValue for item in readback.named(group, "Algorithm Parameters")]
        assert f"bundle digest (SHA-256): {'ab' * 32}" in parameters
        assert "operating point: screening" in parameters
        assert any("sensitivity 0.935 (95 % CI 0.910 to 0.958)" in line for line in parameters)


def test_it_says_what_it_is_not_and_why_to_look(data: Dataset) -> None:
    comments = [item.TextValue for item in readback.named(data, "Comment")]
    assert any("not a diagnosis" in line for line in comments)
    assert any(line.startswith("Review required: a score lies close") for line in comments)
    assert "Warning unsupported_view: The view is PA; the bundle takes AP." in comments


def test_tracking_and_observer(data: Dataset) -> None:
    report = samples.report()
    tracked = [readback.named(g, "Tracking Unique Identifier")[0].UID for g in groups(data)]
    assert tracked == [uids.tracking_uid(report, "pneumonia"), uids.tracking_uid(report, "normal")]
    observer = readback.named(data, "Device Observer UID")[0]
    assert uids.device_uid(report) == observer.UID


def test_highdicom_reads_it_as_a_measurement_report() -> None:
    document = hd.sr.srread(io.BytesIO(make("sr", samples.report())))
    found = cast("MeasurementReport", document.content).get_image_measurement_groups()
    assert [g.finding_type.meaning for g in found if g.finding_type] == ["Pneumonia", "Normal"]
    assert [g.source_images[0].referenced_sop_instance_uid for g in found] == [samples.source().sop_instance_uid] * 2


def test_classes_without_a_public_code_have_a_private_one() -> None:
    long_name = "enlarged_cardiomediastinum_of_some_kind"
    scores = tuple(ClassScore(name, 0.5, 0.0, 0.0, 0.0, 0.5, True) for name in (long_name, "scoliosis"))
    report = samples.report(decision=samples.decision(classes=scores, label=long_name))
    data = readback.dataset(make("sr", report))
    found = [readback.named(g, "Finding")[0].ConceptCodeSequence[0] for g in groups(data)]
    assert [(c.CodingSchemeDesignator, c.CodeMeaning) for c in found] == [
        ("99CXRTRIAGE", "Enlarged cardiomediastinum of some kind"),
        ("99CXRTRIAGE", "Scoliosis"),
    ]
    assert data.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99CXRTRIAGE"


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-300, 1 - 2**-53, 1 / 3])
def test_any_probability_can_be_written(value: float) -> None:
    scores = (ClassScore("pneumonia", value, 1e6, -1e6, 1 / 3, value, False),)
    data = readback.dataset(make("sr", samples.report(decision=samples.decision(classes=scores))))
    assert number(groups(data)[0], codes.PROBABILITY.meaning) == value


@settings(deadline=None, max_examples=25)
@given(odd_sources())
def test_any_header_gives_a_report_that_can_be_read(source: Source) -> None:
    """Warnings are errors here, so that a value pydicom finds odd fails."""
    data = readback.dataset(make("sr", samples.report(source=source)))
    assert data.StudyInstanceUID == source.study_uid
    assert str(data)  # every value is decoded
