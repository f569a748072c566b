"""What the DICOM results have in common: a stand-in film to build them on, and the last step that makes them the film's own.

highdicom and pydicom print and log values they find odd. So the libraries build every object for a stand-in film with an empty
patient, and `finished` puts the identity in at the end, as values that were made valid in `identity` and are not looked at again.
"""

from __future__ import annotations

import io
from datetime import datetime
from typing import Any, Final

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from app.domain import Source
from app.results import identity, uids, wording
from app.results.report import Report, ResultKind

_STAND_IN_STUDY: Final = "2.25.1"
_STAND_IN_SERIES: Final = "2.25.2"
_STAND_IN_INSTANCE: Final = "2.25.3"
_STAND_IN_CLASS: Final = str(ComputedRadiographyImageStorage)
# far from the numbers that modalities give, so that the results come last in a viewer's list
_SERIES_NUMBERS: Final[dict[ResultKind, int]] = {"sr": 9701, "sc": 9702, "gsps": 9703, "pdf_dicom": 9704}
_SERIES_NAMES: Final[dict[ResultKind, str]] = {
    "sr": "AI triage report",
    "sc": "AI triage overlay",
    "gsps": "AI triage outlines",
    "pdf_dicom": "AI triage page",
}


def local_time(report: Report) -> datetime:
    """DICOM dates and times are local ones: in the time zone of this process (TZ), whole seconds."""
    return report.judged_at.astimezone().replace(microsecond=0, tzinfo=None)


def stand_in_film() -> Dataset:
    """The film that objects are built on, with nothing in it that belongs to anybody."""
    film = Dataset()
    film.SpecificCharacterSet = "ISO_IR 192"
    film.StudyInstanceUID, film.SeriesInstanceUID = _STAND_IN_STUDY, _STAND_IN_SERIES
    film.SOPInstanceUID, film.SOPClassUID = _STAND_IN_INSTANCE, _STAND_IN_CLASS
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"):
        setattr(film, keyword, "")
    for keyword in ("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"):
        setattr(film, keyword, "")
    film.Modality = "CR"
    return film


def common_arguments(report: Report, kind: ResultKind) -> dict[str, Any]:
    """Keyword arguments that every constructor of highdicom takes."""
    when = local_time(report)
    # a presentation state has a date of its own instead (PS3.3 C.11.10)
    dates = {} if kind == "gsps" else {"content_date": when.date(), "content_time": when.time()}
    return {
        **dates,
        "series_instance_uid": uids.series_uid(report, kind),
        "series_number": _SERIES_NUMBERS[kind],
        "series_description": _SERIES_NAMES[kind],
        "sop_instance_uid": uids.object_uid(report, kind),
        "instance_number": 1,
        "manufacturer": wording.MANUFACTURER,
        "manufacturer_model_name": report.bundle_name,
        "software_versions": wording.algorithm(report),
        "device_serial_number": report.bundle_digest,
        "specific_character_set": "ISO_IR 192",
    }


def source_reference(purpose: Dataset | None = None) -> Dataset:
    """An item that refers to the film (PS3.3 10.3)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = _STAND_IN_CLASS, _STAND_IN_INSTANCE
    if purpose is not None:
        item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def finished(data: Dataset, report: Report, source: Source) -> bytes:
    """The object as a Part 10 file: the film's own identity and references, every date from the report, nothing from the clock."""
    when = local_time(report)
    data.InstanceCreationDate, data.InstanceCreationTime = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    for item in data.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = when.strftime("%Y%m%d%H%M%S")
    real = {
        _STAND_IN_STUDY: source.study_uid,
        _STAND_IN_SERIES: source.series_uid,
        _STAND_IN_INSTANCE: source.sop_instance_uid,
        _STAND_IN_CLASS: source.sop_class_uid,
    }
    for element in data.iterall():
        if element.VR == "UI" and element.value in real:
            element.validation_mode = config.IGNORE
            element.value = real[element.value]
    for keyword, value in identity.patient_and_study(source).items():
        _put(data, keyword, value)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _put(data: Dataset, keyword: str, value: str) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None:  # a misspelt keyword of ours
        raise ValueError(f"no such DICOM keyword: {keyword}")
    data[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE)
