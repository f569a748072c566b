"""Every DICOM result from three different films, read by the validators that PACS vendors use."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset

from app.results import ResultKind, make
from tests.results import readback, samples

DICOM: tuple[ResultKind, ...] = ("sr", "sc", "gsps", "pdf_dicom")
FILMS = sorted(samples.SOURCES)


@pytest.mark.parametrize("film", FILMS)
@pytest.mark.parametrize("kind", DICOM)
def test_dciodvfy_finds_no_error(kind: ResultKind, film: str, tmp_path: Path) -> None:
    made = make(kind, samples.report(source=samples.SOURCES[film]))
    assert readback.complaints(made, tmp_path) == []


def test_dciodvfy_would_find_one(tmp_path: Path) -> None:
    data = readback.dataset(make("sr", samples.report()))
    del data.CompletionFlag
    assert readback.complaints(_bytes(data, tmp_path), tmp_path)


@pytest.mark.parametrize("film", FILMS)
def test_dsrdump_reads_the_report(film: str, tmp_path: Path) -> None:
    text = readback.dsrdump(make("sr", samples.report(source=samples.SOURCES[film])), tmp_path)
    assert "Comprehensive SR Document" in text
    assert '(233604007,SCT,"Pneumonia")' in text
    assert '="0.8731234567" (1,UCUM,"no units")' in text


@pytest.mark.parametrize("film", FILMS)
@pytest.mark.parametrize("kind", DICOM)
def test_the_object_is_the_films_own(kind: ResultKind, film: str) -> None:
    """Same study, own series, the patient as far as the header is fit to say, and a reference to the film."""
    source = samples.SOURCES[film]
    data = readback.dataset(make(kind, samples.report(source=source)))
    assert data.StudyInstanceUID == source.study_uid
    assert data.SeriesInstanceUID != source.series_uid
    assert data.SOPInstanceUID == data.file_meta.MediaStorageSOPInstanceUID
    assert data.SpecificCharacterSet == "ISO_IR 192"
    assert (data.InstanceCreationDate, data.InstanceCreationTime) == ("20260203", "040506")
    references = {
        (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for element in data.iterall()
        if element.VR == "SQ"
        for item in element.value
        if "ReferencedSOPInstanceUID" in item
    }
    assert references == {(source.sop_class_uid, source.sop_instance_uid)}
    stand_ins = {"2.25.1", "2.25.2", "2.25.3"}
    assert not any(str(e.value) in stand_ins for e in data.iterall() if e.VR == "UI")


def test_the_patient_of_each_film() -> None:
    found = {
        film: readback.dataset(make("sr", samples.report(source=source))) for film, source in samples.SOURCES.items()
    }
    assert {film: (str(d.PatientName), d.PatientID, d.AccessionNumber) for film, d in found.items()} == {
        "plain": ("Canary^Jo", "ID-1", "ACC1"),
        "bare": ("", "", ""),
        "odd": ("Yamada^Tarou=山田^太郎=やまだ^たろう", "", ""),
    }
    assert found["plain"].StudyDate == "20210401"
    assert found["odd"].IssuerOfPatientID == "Größe & Söhne | ~ ^"


def test_a_uid_with_leading_zeros_stays_as_it_is() -> None:
    odd = samples.source(1, study_uid="1.2.0777.2", sop_instance_uid="1.2.0777.1")
    data = make("sr", samples.report(source=odd))
    assert data.count(b"1.2.0777.2") == 2  # the study, and the evidence
    assert data.count(b"1.2.0777.1") == 3  # the evidence, and the source image of either class


def _bytes(data: Dataset, folder: Path) -> bytes:
    path = folder / "changed.dcm"
    data.save_as(path, enforce_file_format=True)
    return path.read_bytes()
