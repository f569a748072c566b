"""The answer as an HL7 FHIR R4 DiagnosticReport (JSON) that holds all it refers to: patient, study, device and one Observation per class.

Everything is contained, so that the receiver needs no other request; identifiers and not ids tie it to what the receiver knows.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final

from app.domain import ClassScore, Source
from app.results import codes, identity, uids, wording
from app.results.codes import Concept
from app.results.report import Report

_SYSTEMS: Final = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    codes.PRIVATE_SCHEME: "urn:cxr-triage:result-codes",
}
_TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
_URI: Final = "urn:ietf:rfc:3986"
_DICOM_UID: Final = "urn:dicom:uid"
_GENDERS: Final = {"M": "male", "F": "female", "O": "other"}

Resource = dict[str, Any]


def render(report: Report) -> bytes:
    """UTF-8 JSON, keys in the order of the specification. A film that was no DICOM gives a report without subject and study."""
    return json.dumps(_report(report), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")


def _report(report: Report) -> Resource:
    scores = report.decision.classes
    about = _about(report.source)
    contained = [
        *_contained_source(report.source),
        _device(report),
        *[_observation(report, score, index, about) for index, score in enumerate(scores, 1)],
    ]
    conclusion = " ".join((wording.conclusion(report), wording.review(report), *wording.warnings(report)))
    conclusion = identity.text(f"{conclusion} {wording.NOT_A_DIAGNOSIS}")
    return {
        "resourceType": "DiagnosticReport",
        "text": {"status": "generated", "div": _narrative(conclusion)},
        "contained": contained,
        "identifier": [{"system": _URI, "value": f"urn:oid:{uids.object_uid(report, 'fhir')}"}],
        **_order(report.source),
        "status": "preliminary",
        "category": [{"coding": [{"system": f"{_TERMINOLOGY}/v2-0074", "code": "RAD", "display": "Radiology"}]}],
        "code": _concept(codes.IMAGING_STUDY, wording.TITLE),
        **about,
        **_effective(report.source),
        "issued": _instant(report),
        "result": [{"reference": f"#class-{index}"} for index in range(1, len(scores) + 1)],
        **({"imagingStudy": [{"reference": "#study"}]} if _has_study(report.source) else {}),
        "conclusion": conclusion,
        "conclusionCode": [_concept(codes.finding(report.decision.label), report.decision.label)],
    }


def _observation(report: Report, score: ClassScore, index: int, about: Mapping[str, Any]) -> Resource:
    """One class: the calibrated probability, whether that is positive at the operating point, and the margin it was decided by."""
    decisive = wording.decided_by_threshold(score)
    components = {codes.MARGIN: score.margin, codes.THRESHOLD_MARGIN: score.threshold_margin if decisive else None}
    decided = "POS" if score.positive else "NEG"
    limit = score.threshold_probability if decisive else None
    return {
        "resourceType": "Observation",
        "id": f"class-{index}",
        "status": "preliminary",
        "code": _concept(codes.finding(score.name), score.name),
        **about,
        **_effective(report.source),
        "issued": _instant(report),
        "valueQuantity": _quantity(score.probability, "probability"),
        "interpretation": [
            {
                "coding": [
                    {
                        "system": f"{_TERMINOLOGY}/v3-ObservationInterpretation",
                        "code": decided,
                        "display": codes.verdict(score.positive).meaning,
                    }
                ],
                "text": f"{wording.verdict(score)} at operating point {report.point.name}",
            }
        ],
        "device": {"reference": "#device"},
        **(
            {"referenceRange": [{"high": _quantity(limit, "probability"), "text": "positive at or above"}]}
            if limit is not None
            else {}
        ),
        "component": [
            {"code": _concept(name), "valueQuantity": _quantity(value, "logit units")}
            for name, value in components.items()
            if value is not None
        ],
    }


def _device(report: Report) -> Resource:
    engine = report.engine
    return {
        "resourceType": "Device",
        "id": "device",
        "identifier": [{"system": _URI, "value": f"urn:oid:{uids.device_uid(report)}"}],
        "manufacturer": wording.MANUFACTURER,
        "serialNumber": report.bundle_digest,
        "deviceName": [{"name": report.bundle_name, "type": "model-name"}],
        "version": [{"value": report.bundle_version}],
        "property": [
            {"type": {"text": "operating point"}, "valueCode": [{"text": line}]}
            for line in wording.operating_point(report)
        ]
        + [{"type": {"text": "engine"}, "valueCode": [{"text": f"{engine.name} {engine.version} {engine.precision}"}]}],
        "note": [{"text": identity.text(line)} for line in wording.comments(report)],
    }


def _contained_source(source: Source | None) -> list[Resource]:
    """Patient and ImagingStudy, with what the header says and is fit to say."""
    if source is None:
        return []
    patient: Resource = {"resourceType": "Patient", "id": "patient"}
    if number := identity.exact(source.patient_id):
        issuer = identity.exact(source.issuer_of_patient_id)
        patient["identifier"] = [{"value": number, **({"assigner": {"display": issuer}} if issuer else {})}]
    if names := _names(source.patient_name):
        patient["name"] = names
    if source.sex in _GENDERS:
        patient["gender"] = _GENDERS[source.sex]
    if born := _date(source.birth_date):
        patient["birthDate"] = born
    return [patient, _study(source)] if _has_study(source) else [patient]


def _has_study(source: Source | None) -> bool:
    return source is not None and identity.usable_uid(source.study_uid)


def _study(source: Source) -> Resource:
    study: Resource = {
        "resourceType": "ImagingStudy",
        "id": "study",
        "identifier": [{"system": _DICOM_UID, "value": f"urn:oid:{source.study_uid}"}],
        "status": "available",
        "subject": {"reference": "#patient"},
    }
    if taken := _date(source.study_date):
        study["started"] = taken
    if identity.usable_uid(source.series_uid) and identity.usable_uid(source.sop_instance_uid):
        study["series"] = [_series(source)]
    return study


def _series(source: Source) -> Resource:
    instance = {
        "uid": source.sop_instance_uid,
        "sopClass": {"system": _URI, "code": f"urn:oid:{identity.text(source.sop_class_uid)}"},
    }
    return {
        "uid": source.series_uid,
        "modality": {"system": _SYSTEMS["DCM"], "code": "RG", "display": "Radiographic imaging"},
        "instance": [instance],
    }


def _names(name: str) -> list[Resource]:
    """DICOM names are family, given, middle, prefix, suffix (PS3.5 6.2.1); the groups are different ways to write one name."""
    made = []
    for group in name.split("=")[:3]:
        parts = [identity.text(part) for part in group.split("^")[:5]]
        family, given, middle, prefix, suffix = parts + [""] * (5 - len(parts))
        human = {
            "text": " ".join(part for part in (prefix, given, middle, family, suffix) if part),
            "family": family,
            "given": [part for part in (given, middle) if part],
            "prefix": [prefix] if prefix else [],
            "suffix": [suffix] if suffix else [],
        }
        if human["text"]:
            made.append({key: value for key, value in human.items() if value})
    return made


def _about(source: Source | None) -> Resource:
    return {"subject": {"reference": "#patient"}} if source else {}


def _order(source: Source | None) -> Resource:
    """The order that the film was taken for, known by its accession number (FHIR: identifier type ACSN)."""
    number = identity.exact(source.accession_number) if source else ""
    if not number:
        return {}
    kind = {"coding": [{"system": f"{_TERMINOLOGY}/v2-0203", "code": "ACSN"}]}
    return {"basedOn": [{"type": "ServiceRequest", "identifier": {"type": kind, "value": number}}]}


def _effective(source: Source | None) -> Resource:
    """The day of the film: a DICOM time has no time zone, so it cannot be a FHIR time."""
    taken = _date(source.study_date) if source else ""
    return {"effectiveDateTime": taken} if taken else {}


def _date(value: str) -> str:
    valid = identity.date(value)
    return f"{valid[:4]}-{valid[4:6]}-{valid[6:]}" if valid else ""


def _instant(report: Report) -> str:
    return report.judged_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _concept(concept: Concept, words: str | None = None) -> Resource:
    coding = {"system": _SYSTEMS[concept.scheme], "code": concept.value, "display": concept.meaning}
    return {"coding": [coding], **({"text": words} if words else {})}


def _quantity(value: float, unit: str) -> Resource:
    """`decimal` with nine significant digits, like /predict."""
    return {"value": float(f"{value:.9g}"), "unit": unit, "system": _SYSTEMS["UCUM"], "code": "1"}


def _narrative(words: str) -> str:
    return f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{html.escape(words, quote=False)}</p></div>'
