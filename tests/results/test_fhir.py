from __future__ import annotations

import json
from typing import Any

import pytest
from fhir.resources.R4B.device import Device
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.imagingstudy import ImagingStudy
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.patient import Patient
from hypothesis import given

from app.domain import ClassScore, Source
from app.results import Report, make, uids
from tests.results import samples
from tests.results.test_identity import odd_sources
from tests.support.decisions import unhurried

MODELS: dict[str, Any] = {
    "Patient": Patient,
    "ImagingStudy": ImagingStudy,
    "Device": Device,
    "Observation": Observation,
}


def fhir(report: Report) -> dict[str, Any]:
    """The report as JSON, after the models of R4B took it and every resource in it."""
    made: dict[str, Any] = json.loads(make("fhir", report))
    DiagnosticReport.model_validate(made)
    for resource in made["contained"]:
        MODELS[resource["resourceType"]].model_validate(resource)
    return made


def contained(made: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [resource for resource in made["contained"] if resource["resourceType"] == kind]


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["reference"]} if "reference" in value else set()
        return own.union(*(references(v) for v in value.values()))
    if isinstance(value, list):
        return set().union(*(references(v) for v in value))
    return set()


@pytest.mark.parametrize("film", [*samples.SOURCES, None])
def test_valid_and_whole(film: str | None) -> None:
    """Whatever is contained is referred to, and whatever is referred to is contained (dom-3)."""
    made = fhir(samples.report(source=samples.SOURCES[film] if film else None))
    assert references(made) == {f"#{resource['id']}" for resource in made["contained"]}


def test_the_models_would_refuse() -> None:
    made = json.loads(make("fhir", samples.report()))
    made["status"] = ["preliminary"]
    with pytest.raises(ValueError, match="status"):
        DiagnosticReport.model_validate(made)


def test_one_observation_per_class() -> None:
    pneumonia, normal = contained(fhir(samples.report()), "Observation")
    assert pneumonia["code"]["coding"] == [
        {"system": "http://snomed.info/sct", "code": "233604007", "display": "Pneumonia"}
    ]
    assert pneumonia["valueQuantity"]["value"] == 0.873123457
    assert pneumonia["referenceRange"][0]["high"]["value"] == 0.2221
    assert [c["valueQuantity"]["value"] for c in pneumonia["component"]] == [1.93, -1.25305688]
    assert [o["interpretation"][0]["coding"][0]["code"] for o in (pneumonia, normal)] == ["POS", "NEG"]
    assert "referenceRange" not in normal


def test_the_report() -> None:
    report = samples.report()
    made = fhir(report)
    assert made["status"] == "preliminary"
    assert made["issued"] == "2026-02-03T04:05:06Z"
    assert made["identifier"][0]["value"] == f"urn:oid:{uids.object_uid(report, 'fhir')}"
    assert made["effectiveDateTime"] == "2021-04-01"
    assert made["basedOn"][0]["identifier"]["value"] == "ACC1"
    assert "not a diagnosis" in made["conclusion"]
    assert "Warning unsupported_view" in made["conclusion"]
    assert made["conclusionCode"][0]["coding"][0]["code"] == "233604007"
    (study,) = contained(made, "ImagingStudy")
    assert study["identifier"][0]["value"] == f"urn:oid:{samples.source().study_uid}"
    (device,) = contained(made, "Device")
    assert (device["version"][0]["value"], device["serialNumber"]) == ("1.0.0", "ab" * 32)


def test_the_patient() -> None:
    (patient,) = contained(fhir(samples.report()), "Patient")
    assert patient["identifier"] == [{"value": "ID-1", "assigner": {"display": "Hospital"}}]
    assert (patient["gender"], patient["birthDate"]) == ("female", "2017-03-05")
    (odd,) = contained(fhir(samples.report(source=samples.SOURCES["odd"])), "Patient")
    assert [name["text"] for name in odd["name"]] == ["Tarou Yamada", "太郎 山田", "たろう やまだ"]
    assert not {"gender", "birthDate"} & set(odd)
    (bare,) = contained(fhir(samples.report(source=samples.SOURCES["bare"])), "Patient")
    assert set(bare) == {"resourceType", "id"}


def test_a_name_with_prefix_and_suffix() -> None:
    (patient,) = contained(fhir(samples.report(source=samples.source(1, patient_name="Doe^Jo^Max^Dr.^Jr."))), "Patient")
    assert patient["name"] == [
        {"text": "Dr. Jo Max Doe Jr.", "family": "Doe", "given": ["Jo", "Max"], "prefix": ["Dr."], "suffix": ["Jr."]}
    ]


def test_without_a_source_there_is_nobody() -> None:
    made = fhir(samples.report(source=None))
    assert not {"subject", "imagingStudy", "basedOn", "effectiveDateTime"} & set(made)
    assert not contained(made, "Patient")


def test_markup_in_a_warning_stays_text() -> None:
    limits = samples.operating_point().model_copy(update={"name": "a"})
    report = samples.report(bundle_name="<b>&x", point=limits)
    assert "&lt;b&gt;&amp;x 1.0.0" in fhir(report)["text"]["div"]


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-300, 1 - 2**-53])
def test_any_probability(value: float) -> None:
    scores = (ClassScore("pneumonia", value, -1e300, 1e300, None, None, False),)
    made = fhir(samples.report(decision=samples.decision(classes=scores)))
    assert contained(made, "Observation")[0]["valueQuantity"]["value"] == float(f"{value:.9g}")


@unhurried
@given(odd_sources())
def test_any_header_gives_a_valid_report(source: Source) -> None:
    fhir(samples.report(source=source))
