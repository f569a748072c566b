"""The answer as a DICOM structured report: TID 1500 Measurement Report in a Comprehensive SR (PS3.3 A.35.3, PS3.16 TID 1500, 1501, 300)."""

from __future__ import annotations

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ComprehensiveSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.sr.codedict import codes as dictionary

from app.domain import ClassScore
from app.results import codes, dicom_object, uids, wording
from app.results.codes import Concept
from app.results.identity import require_film
from app.results.report import Report


def render(report: Report) -> bytes:
    """One measurement group per class, in the order of the decision; then the label and what must be read with it."""
    source = require_film(report.source, "A structured report")
    film = dicom_object.stand_in_film()
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(report)),
        procedure_reported=_coded(codes.PLAIN_CHEST),
        imaging_measurements=[_group(report, score) for score in report.decision.classes],
        title=dictionary.DCM.ImagingMeasurementReport,
    )
    content[0].ContentSequence.append(_evaluations(report))
    document = ComprehensiveSR(
        evidence=[film],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[
            CodingSchemeIdentificationItem(
                designator=codes.PRIVATE_SCHEME,
                name=codes.PRIVATE_SCHEME_NAME,
                responsible_organization=wording.MANUFACTURER,
            )
        ],
        **dicom_object.common_arguments(report, "sr"),
    )
    return dicom_object.finished(document, report, source)


def _observer(report: Report) -> ObserverContext:
    """TID 1004: the device that observed is the bundle."""
    return ObserverContext(
        observer_type=dictionary.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=uids.device_uid(report),
            name=report.bundle_name,
            manufacturer_name=wording.MANUFACTURER,
            model_name=wording.algorithm(report),
            serial_number=report.bundle_digest,
        ),
    )


def _group(report: Report, score: ClassScore) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501: one class. Its tracking UID stays the same when another version of the bundle judges the film again."""
    numbers: dict[Concept, float | None] = {
        codes.PROBABILITY: score.probability,
        codes.MARGIN: score.margin,
    }
    if wording.decided_by_threshold(score):
        numbers |= {
            codes.THRESHOLD_MARGIN: score.threshold_margin,
            codes.THRESHOLD_PROBABILITY: score.threshold_probability,
        }
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=uids.tracking_uid(report, score.name), identifier=f"{report.bundle_name}/{score.name}"
        ),
        finding_type=_coded(codes.finding(score.name)),
        algorithm_id=_algorithm(report),
        measurements=[
            Measurement(name=_coded(name), value=value, unit=_coded(codes.NO_UNITS))
            for name, value in numbers.items()
            if value is not None
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(name=_coded(codes.DECISION), value=_coded(codes.verdict(score.positive)))
        ],
        source_images=[_film()],
    )


def _film() -> SourceImageForMeasurementGroup:
    film = dicom_object.stand_in_film()
    return SourceImageForMeasurementGroup(film.SOPClassUID, film.SOPInstanceUID)


def _algorithm(report: Report) -> AlgorithmIdentification:
    """TID 4019: everything that the numbers depend on."""
    engine = report.engine
    return AlgorithmIdentification(
        name=report.bundle_name,
        version=report.bundle_version,
        manufacturer=wording.MANUFACTURER,
        parameters=[
            f"bundle digest (SHA-256): {report.bundle_digest}",
            f"operating point: {report.point.name}",
            *wording.operating_point(report),
            f"engine: {engine.name} {engine.version}, precision {engine.precision}",
        ],
    )


def _evaluations(report: Report) -> ContainerContentItem:
    """TID 1500 rows 12 and 13: the label as code, the rest as text."""
    contains = RelationshipTypeValues.CONTAINS
    container = ContainerContentItem(name=_coded(codes.QUALITATIVE_EVALUATIONS), relationship_type=contains)
    container.ContentSequence = ContentSequence(
        [
            CodeContentItem(
                name=_coded(codes.LABEL), value=_coded(codes.finding(report.decision.label)), relationship_type=contains
            ),
            *[
                TextContentItem(name=_coded(codes.COMMENT), value=line, relationship_type=contains)
                for line in (wording.conclusion(report), *wording.comments(report))
            ],
        ]
    )
    return container


def _coded(concept: Concept) -> CodedConcept:
    return CodedConcept(value=concept.value, scheme_designator=concept.scheme, meaning=concept.meaning)
