"""What is told about a film: closed words, the patient's age, spacing; and the identifiers, as pydicom reads them."""

from __future__ import annotations

import io
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from app.domain import Acquisition, Source
from app.imaging.decode import ImageLimits, decode
from app.imaging.dicom.attributes import age_years
from tests.support.dicom_bytes import element, even, film, item
from tests.support.dicom_films import CANARY, PATIENT, as_bytes, dicom_film, file_dataset

LIMITS = ImageLimits(min_px=128, max_px=4_096)
SMALL = (128, 128)


def told(data: bytes) -> tuple[Acquisition, Source]:
    radiograph = decode(data, LIMITS)
    assert radiograph.acquisition is not None
    assert radiograph.source is not None
    return radiograph.acquisition, radiograph.source


def acquisition(**attributes: Any) -> Acquisition:
    return told(dicom_film(1, size=SMALL, **attributes))[0]


def code(value: str, scheme: str = "SCT") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, f"{CANARY} view"
    return Sequence([item])


def test_everything_of_a_plain_film() -> None:
    found, _ = told(dicom_film(1))
    assert found == Acquisition(
        modality="CR", sop_class="1.2.840.10008.5.1.4.1.1.1", transfer_syntax="1.2.840.10008.1.2.1", photometric="MONOCHROME2",
        bits_stored=12, display="window_linear", body_part="CHEST", view="PA", age_years=4.0, burned_in_annotation=False,
        presentation_intent=None, derived=False, pixel_spacing_mm=(0.2, 0.2), pixel_spacing_source="pixel_spacing",
    )  # fmt: skip


def test_a_film_that_says_nothing() -> None:
    found, source = told(film(t00080060=None, t00080016=None, t00080018=None))
    assert (found.modality, found.sop_class) == ("other", "other")
    assert (found.body_part, found.view, found.age_years, found.burned_in_annotation) == (None,) * 4
    assert (found.presentation_intent, found.pixel_spacing_mm, found.pixel_spacing_source) == (None,) * 3
    assert source == Source("", "", "", "", transfer_syntax_uid=found.transfer_syntax, rows=128, columns=128)


@pytest.mark.parametrize(
    ("stated", "view"),
    [
        ("PA", "PA"), ("AP", "AP"), ("ap ", "AP"), ("LL", "LL"), ("RL", "RL"), ("LAT", "LATERAL"), ("LATERAL", "LATERAL"), ("LLD", "LLD"),
        ("LLO", "LLO"), ("SWIMMERS", "other"), (f"{CANARY}", "other"), ("", None),
    ],
)  # fmt: skip
def test_view_position(stated: str, view: str | None) -> None:
    data = film(t00185101=("CS", even(stated, " ")))
    assert told(data)[0].view == view


@pytest.mark.parametrize(
    ("value", "view"),
    [
        ("399348003", "AP"), ("R-10206", "AP"), ("272479007", "PA"), ("R-10214", "PA"), ("399173006", "LL"), ("R-10236", "LL"),
        ("399198007", "RL"), ("399067008", "LATERAL"), ("399182000", "OBLIQUE"), ("12345", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_view_code_where_there_is_no_position(value: str, view: str) -> None:
    assert acquisition(ViewPosition="", ViewCodeSequence=code(value)).view == view
    assert acquisition(ViewPosition=None, ViewCodeSequence=code(value)).view == view
    assert acquisition(ViewPosition="AP", ViewCodeSequence=code(value)).view == "AP"


def test_damaged_codes_count_as_other() -> None:
    assert told(film(t00540220=("LO", b"ab")))[0].view == "other"
    assert told(film(t00540220=("SQ", item(b""))))[0].view == "other"
    assert told(film(t00540220=("SQ", b"")))[0].view is None
    two = item(element(0x00080100, "SH", b"R-10206 ")) * 2
    assert told(film(t00540220=("SQ", two)))[0].view == "other"


@pytest.mark.parametrize(
    ("stated", "part"), [("CHEST", "CHEST"), ("hand", "HAND"), ("RIBCAGE", "RIBCAGE"), (CANARY, "other")]
)
def test_body_part(stated: str, part: str) -> None:
    assert told(film(t00180015=("CS", even(stated, " "))))[0].body_part == part


def test_body_part_from_the_anatomic_region() -> None:
    for value, part in {
        "51185008": "CHEST",
        "T-D3000": "CHEST",
        "39607008": "LUNG",
        "69536005": "HEAD",
        "1": "other",
    }.items():
        assert acquisition(BodyPartExamined=None, AnatomicRegionSequence=code(value)).body_part == part
    assert acquisition(BodyPartExamined="HAND", AnatomicRegionSequence=code("51185008")).body_part == "HAND"
    assert acquisition(BodyPartExamined=None).body_part is None


@pytest.mark.parametrize(
    ("stated", "modality"), [("DX", "DX"), ("CT", "CT"), ("RTIMAGE", "RTIMAGE"), ("XY", "other"), (CANARY, "other")]
)
def test_modality(stated: str, modality: str) -> None:
    assert told(film(t00080060=("CS", even(stated, " "))))[0].modality == modality


@pytest.mark.parametrize(
    ("age", "born", "taken", "years"),
    [
        ("004Y", "", "", 4.0), ("000Y", "", "", 0.0), ("018M", "", "", 1.0), ("023M", "", "", 1.0), ("024M", "", "", 2.0),
        ("006M", "", "", 0.5),
        ("026W", "", "", 26 * 7 / 365.25), ("104W", "", "", 1.0), ("100D", "", "", 100 / 365.25), ("131Y", "", "", None),
        ("", "20170305", "20210401", 4.0), ("", "20170305", "20210304", 3.0), ("", "20170305", "20210305", 4.0),
        ("", "2017.03.05", "20210305", 4.0), ("", "20200901", "20210101", 122 / 365.25), ("", "20210402", "20210401", None),
        ("", "20170230", "20210401", None), ("", "18000101", "20210401", None), ("", "", "20210401", None), ("", "20170305", "", None),
        ("4Y", "20170305", "20210401", 4.0), ("04Y", "", "", None), ("ABCD", "", "", None), ("004Y", "19500101", "20210401", 4.0),
        ("", "20160229", "20210228", 4.0), ("", "20160229", "20210301", 5.0),
    ],
)  # fmt: skip
def test_age(age: str, born: str, taken: str, years: float | None) -> None:
    assert age_years(age, born, taken) == (None if years is None else pytest.approx(years, abs=1e-12))


def test_age_from_the_header() -> None:
    assert acquisition().age_years == 4
    assert acquisition(PatientAge=None).age_years == 4
    assert acquisition(PatientAge=None, StudyDate="20300401").age_years == 13
    assert acquisition(PatientAge=None, StudyDate="20300401", AcquisitionDate="20190401").age_years == 2
    assert acquisition(PatientAge=None, PatientBirthDate=None).age_years is None


def test_intent_annotation_and_origin() -> None:
    assert acquisition(PresentationIntentType="FOR PROCESSING").presentation_intent == "processing"
    assert acquisition(PresentationIntentType="FOR PRESENTATION").presentation_intent == "presentation"
    raw = acquisition(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1")
    assert (raw.presentation_intent, raw.sop_class) == ("processing", "1.2.840.10008.5.1.4.1.1.1.1.1")
    assert acquisition(SOPClassUID="1.2.840.10008.5.1.4.1.1.66666").sop_class == "other"
    assert acquisition(BurnedInAnnotation="YES").burned_in_annotation is True
    assert acquisition(BurnedInAnnotation=None).burned_in_annotation is None
    assert acquisition(ImageType=["DERIVED", "SECONDARY"]).derived is True


def test_spacing() -> None:
    imager = {"PixelSpacing": None, "ImagerPixelSpacing": [0.143, 0.15]}
    assert acquisition(**imager).pixel_spacing_mm == (0.143, 0.15)
    assert acquisition(**imager).pixel_spacing_source == "imager_pixel_spacing"
    assert acquisition(PixelSpacing=[0.1, 0.3], ImagerPixelSpacing=[1, 1]).pixel_spacing_mm == (0.1, 0.3)
    assert acquisition(PixelSpacing=[0, 0.3], ImagerPixelSpacing=[1, 1]).pixel_spacing_source == "imager_pixel_spacing"
    assert told(film(t00280030=("DS", b"x\\1 ")))[0].pixel_spacing_mm is None
    assert told(film(t00280030=("DS", b"1e9\\1 ")))[0].pixel_spacing_mm is None


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
)
def test_identifiers_as_pydicom_reads_them(syntax: str) -> None:
    data = file_dataset(
        3, size=SMALL, FrameOfReferenceUID="1.2.3.9", ImageLaterality="R", PatientName="Müller^Jörg=小林=こばやし"
    )
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    stored = as_bytes(data)
    source, film = told(stored)[1], pydicom.dcmread(io.BytesIO(stored))
    assert source == Source(
        film.SOPClassUID, film.SOPInstanceUID, film.StudyInstanceUID, film.SeriesInstanceUID, film.FrameOfReferenceUID,
        str(film.PatientName), film.PatientID, film.IssuerOfPatientID, film.PatientBirthDate, film.PatientSex, film.StudyID, film.StudyDate,
        film.StudyTime, film.StudyDescription, film.AccessionNumber, str(film.ReferringPhysicianName), ("L", "F"), "R", syntax, 128, 128,
    )  # fmt: skip
    assert source.patient_name == "Müller^Jörg=小林=こばやし"


def test_odd_identifiers_do_not_fail_the_film() -> None:
    broken = {
        "t00080005": ("CS", b"ZZ NO SET "), "t00100010": ("PN", b"M\xfcller^\xff\xfe "), "t00100020": ("LO", b"a" * 9_000),
        "t0020000D": ("UI", b"not a uid!"), "t0020000E": ("UI", b"1." * 40), "t00080050": ("SH", b"\x00\x00"), "t00200010": ("SH", b" 7 "),
    }  # fmt: skip
    _, source = told(film(changes=broken))
    assert source.patient_name == "M�ller^��"
    assert len(source.patient_id) == 4_096
    assert (source.study_uid, source.series_uid, source.accession_number, source.study_id) == ("", "", "", "7")


def test_nothing_of_a_person_in_the_words_about_the_film() -> None:
    found, source = told(dicom_film(1, ViewPosition=CANARY, BodyPartExamined=CANARY, Modality=CANARY))
    assert CANARY not in repr(found)
    assert CANARY not in repr(source)
    assert CANARY in source.patient_name
    assert PATIENT["PatientID"] == source.patient_id
