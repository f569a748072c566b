"""Whose film it is, made fit for a result object: every value that leaves here is valid for its value representation (PS3.5 6.2).

Headers of real films hold text that is too long, dates that are none, and control characters. Two rules: an *identifier* is passed on
exactly or not at all, because half of one may be somebody else's; *text* for people is cut and cleaned. Study, series and instance
UIDs are passed on as they stand (with leading zeros, if need be), or the object would land in another study.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from app.domain import Source
from app.errors import RefusedError

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_TIME: Final = re.compile(r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?")
_DATE: Final = re.compile(r"[0-9]{8}")
_DIRECTION: Final = re.compile(r"[LRAPHF]{1,3}")
_SEXES: Final = frozenset({"M", "F", "O"})  # PS3.3 C.7.1.1, Patient's Sex
_UID_LENGTH, _LO, _SH = 64, 64, 16


def usable_uid(value: str) -> bool:
    """Digits and dots, at most 64 characters (PS3.5 section 9.1; leading zeros, which it forbids, are met and taken)."""
    return len(value) <= _UID_LENGTH and _UID.fullmatch(value) is not None


def require_film(source: Source | None, what: str) -> Source:
    """The source, where an object can be filed beside its film.

    Raises:
        RefusedError: `dicom_source_required`: no DICOM film, or one without usable UIDs.
    """
    if source is None:
        raise RefusedError("dicom_source_required", what=what)
    uids = (source.study_uid, source.series_uid, source.sop_instance_uid, source.sop_class_uid)
    if not all(usable_uid(uid) for uid in uids):
        raise RefusedError("dicom_source_required", what=what)
    return source


def patient_and_study(source: Source) -> Mapping[str, str]:
    """Keyword to value for the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): all of type 2 (empty where unknown) and,
    where known, some of type 3."""
    required = {
        "PatientName": person_name(source.patient_name),
        "PatientID": identifier(source.patient_id, _LO),
        "PatientBirthDate": date(source.birth_date),
        "PatientSex": source.sex if source.sex in _SEXES else "",
        "StudyInstanceUID": source.study_uid,
        "StudyDate": date(source.study_date),
        "StudyTime": time(source.study_time),
        "StudyID": identifier(source.study_id, _SH),
        "AccessionNumber": identifier(source.accession_number, _SH),
        "ReferringPhysicianName": person_name(source.referring_physician),
    }
    optional = {
        "IssuerOfPatientID": identifier(source.issuer_of_patient_id, _LO),
        "StudyDescription": text(source.study_description, _LO),
    }
    return required | {keyword: value for keyword, value in optional.items() if value}


def printable(value: str) -> str:
    """One line: control characters, line breaks and lone surrogates become spaces; spaces around it go."""
    return "".join(c if _printable(c) else " " for c in value).strip(" ")


def text(value: str, length: int | None = None) -> str:
    """One line for people, without backslashes (they part values in DICOM), cut to `length` characters."""
    return printable(value.replace("\\", " "))[:length].rstrip(" ")


def exact(value: str) -> str:
    """An identifier without the spaces around it (they have no meaning), or nothing where it holds what cannot be written."""
    trimmed = value.strip(" ")
    return trimmed if all(_printable(c) for c in trimmed) else ""


def identifier(value: str, length: int) -> str:
    """An identifier as a DICOM value of at most `length` characters: exactly, or nothing where it does not fit."""
    whole = exact(value)
    return whole if len(whole) <= length and "\\" not in whole else ""


def person_name(value: str) -> str:
    """PS3.5 6.2.1: at most three groups (`=`) of 64 characters, each of at most five components (`^`)."""
    groups = [text("^".join(group.split("^")[:5]), _LO).rstrip("^") for group in value.split("=")[:3]]
    return "=".join(groups).rstrip("=")


def date(value: str) -> str:
    """YYYYMMDD of a day that exists, or nothing."""
    if not _DATE.fullmatch(value):
        return ""
    try:
        datetime.strptime(value, "%Y%m%d")  # noqa: DTZ007 - only asked whether the day exists
    except ValueError:
        return ""
    return value


def time(value: str) -> str:
    """HH[MM[SS[.FFFFFF]]], or nothing."""
    return value if _TIME.fullmatch(value) else ""


def orientation(words: Sequence[str]) -> list[str]:
    """Patient Orientation of rows and columns (PS3.3 C.7.6.1.1.1), or nothing unless it is two proper directions."""
    return list(words) if len(words) == 2 and all(_DIRECTION.fullmatch(word) for word in words) else []


def _printable(c: str) -> bool:
    return unicodedata.category(c) not in {"Cc", "Cs", "Zl", "Zp"}
