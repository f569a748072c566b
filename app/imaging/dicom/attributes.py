"""What a header says about the film (`Acquisition`, closed words) and whose it is (`Source`, in memory only)."""

from __future__ import annotations

import datetime as dt
import re
from typing import Literal

from app.domain import Acquisition, Source
from app.errors import ImageError
from app.imaging.dicom import words
from app.imaging.dicom.pixel_format import PixelFormat
from app.imaging.dicom.transfer_syntax import TransferSyntax
from app.imaging.dicom.values import Header

_SOP_CLASS, _SOP_INSTANCE, _IMAGE_TYPE, _MODALITY = 0x00080016, 0x00080018, 0x00080008, 0x00080060
_STUDY_DATE, _ACQUISITION_DATE, _STUDY_TIME, _ACCESSION = 0x00080020, 0x00080022, 0x00080030, 0x00080050
_INTENT, _REFERRING, _STUDY_DESCRIPTION, _REGION = 0x00080068, 0x00080090, 0x00081030, 0x00082218
_CODE_VALUE = 0x00080100
_NAME, _ID, _ISSUER, _BIRTH_DATE, _SEX, _AGE = 0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x00101010
_BODY_PART, _IMAGER_SPACING, _VIEW_POSITION = 0x00180015, 0x00181164, 0x00185101
_STUDY, _SERIES, _STUDY_ID, _ORIENTATION, _FRAME_OF_REFERENCE = (
    0x0020000D,
    0x0020000E,
    0x00200010,
    0x00200020,
    0x00200052,
)
_IMAGE_LATERALITY, _LATERALITY, _SPACING, _BURNED_IN, _VIEW_CODE = (
    0x00200062,
    0x00200060,
    0x00280030,
    0x00280301,
    0x00540220,
)

OLDEST_YEARS = 130
LARGEST_SPACING_MM = 10.0
_AGE_STRING = re.compile(r"(\d{3})([DWMY])")
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")  # with dots as in ACR-NEMA 300
_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}


def acquisition(header: Header, pixel_format: PixelFormat, syntax: TransferSyntax, display: str) -> Acquisition:
    """How the film was taken. Nothing here can fail: what is damaged counts as not stated."""
    sop_class = header.uid(_SOP_CLASS)
    spacing, source = _pixel_spacing(header)
    return Acquisition(
        modality=_listed(header.word(_MODALITY), words.MODALITIES) or words.OTHER,
        sop_class=sop_class if sop_class in words.SOP_CLASSES else words.OTHER,
        transfer_syntax=syntax.uid,
        photometric=pixel_format.photometric,
        bits_stored=pixel_format.bits_stored,
        display=display,
        body_part=body_part(header),
        view=view(header),
        age_years=age_years(header.word(_AGE), header.word(_BIRTH_DATE), _film_date(header)),
        burned_in_annotation={"YES": True, "NO": False}.get(header.word(_BURNED_IN)),
        presentation_intent=_intent(header, sop_class),
        derived=header.word(_IMAGE_TYPE) == "DERIVED",
        pixel_spacing_mm=spacing,
        pixel_spacing_source=source,
    )


def body_part(header: Header) -> str | None:
    """In the words of `words.BODY_PARTS`: from the word, else from the code of the anatomic region; None where both are silent."""
    return _listed(header.word(_BODY_PART), words.BODY_PARTS) or _coded(header, _REGION, words.BODY_PART_CODES)


def view(header: Header) -> str | None:
    """In the words of `words.VIEWS`: from View Position, else from the view code; None where both are silent."""
    stated = header.word(_VIEW_POSITION)
    return words.VIEWS.get(stated, words.OTHER) if stated else _coded(header, _VIEW_CODE, words.VIEW_CODES)


def source(header: Header, pixel_format: PixelFormat, syntax: TransferSyntax) -> Source:
    """The identifiers, decoded to Unicode; empty where absent, and for a UID that is not one."""
    return Source(
        sop_class_uid=header.uid(_SOP_CLASS),
        sop_instance_uid=header.uid(_SOP_INSTANCE),
        study_uid=header.uid(_STUDY),
        series_uid=header.uid(_SERIES),
        frame_of_reference_uid=header.uid(_FRAME_OF_REFERENCE),
        patient_name=header.text(_NAME),
        patient_id=header.text(_ID),
        issuer_of_patient_id=header.text(_ISSUER),
        birth_date=header.text(_BIRTH_DATE),
        sex=header.text(_SEX),
        study_id=header.text(_STUDY_ID),
        study_date=header.text(_STUDY_DATE),
        study_time=header.text(_STUDY_TIME),
        study_description=header.text(_STUDY_DESCRIPTION),
        accession_number=header.text(_ACCESSION),
        referring_physician=header.text(_REFERRING),
        patient_orientation=header.words(_ORIENTATION),
        laterality=header.word(_IMAGE_LATERALITY) or header.word(_LATERALITY),
        transfer_syntax_uid=syntax.uid,
        rows=pixel_format.rows,
        columns=pixel_format.columns,
    )


def age_years(age: str, birth_date: str, film_date: str) -> float | None:
    """The patient's age on the day of the film: completed years from the first birthday on, a fraction of a year before.

    age: an AS (`004Y`, `018M`, `003W`, `010D`; PS3.5 section 6.2); else from two dates, `YYYYMMDD`. None where it is unknown or beyond
    0..130. Completed, because 5 years and 11 months are "5 years" to an age range and to `005Y`.
    """
    stated = _AGE_STRING.fullmatch(age)
    if stated:
        years = int(stated[1]) / _PER_YEAR[stated[2]]
        years = years if years < 1 else float(int(years + 1e-9))
    else:
        born, taken = _date(birth_date), _date(film_date)
        if born is None or taken is None:
            return None
        completed = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
        years = float(completed) if completed else (taken - born).days / 365.25
    return years if 0 <= years <= OLDEST_YEARS else None


def _date(text: str) -> dt.date | None:
    match = _DATE.fullmatch(text)
    try:
        return dt.date(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None


def _film_date(header: Header) -> str:
    return header.word(_ACQUISITION_DATE) or header.word(_STUDY_DATE)


def _listed(word: str, known: frozenset[str]) -> str | None:
    """The word if it is a known one, `other` if not, None where there is none."""
    return (word if word in known else words.OTHER) if word else None


def _coded(header: Header, tag: int, known: dict[str, str]) -> str | None:
    """The word for the code of a sequence's one item, `other` for an unknown code, None where there is none."""
    try:
        items = header.items(tag)
    except ImageError:
        return words.OTHER
    if not items:
        return None
    return known.get(items[0].word(_CODE_VALUE), words.OTHER) if len(items) == 1 else words.OTHER


def _intent(header: Header, sop_class: str) -> Literal["presentation", "processing"] | None:
    stated = header.word(_INTENT)
    if stated == "FOR PROCESSING" or sop_class in words.FOR_PROCESSING:
        return "processing"
    return "presentation" if stated == "FOR PRESENTATION" else None


def _pixel_spacing(
    header: Header,
) -> tuple[tuple[float, float] | None, Literal["pixel_spacing", "imager_pixel_spacing"] | None]:
    for tag, name in ((_SPACING, "pixel_spacing"), (_IMAGER_SPACING, "imager_pixel_spacing")):
        try:
            values = header.decimals(tag, "a spacing")
        except ImageError:
            continue
        if len(values) == 2 and all(0 < value <= LARGEST_SPACING_MM for value in values):
            return (values[0], values[1]), "pixel_spacing" if name == "pixel_spacing" else "imager_pixel_spacing"
    return None, None
