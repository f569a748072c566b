"""The answer as an HL7 v2.5.1 message ORU^R01: pipe text for information systems that read nothing else.

MSH PID OBR, then OBX: the DICOM study, per class a probability (NM) and a decision (CWE), the label, and the comments. Segments end
with CR; the text is UTF-8. The control id follows from film, bundle and operating point, so that a repeated message is known as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from app.domain import ClassScore, Source
from app.results import codes, identity, uids, wording
from app.results.codes import Concept
from app.results.identity import require_film
from app.results.report import Report

# HL7 v2.5.1 section 2.7: delimiters within a field are written as escape sequences
_ESCAPES: Final = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"})
_REPRESENTATIONS: Final = ("A", "I", "P")  # HL70465: alphabetic, ideographic, phonetic
_SEXES: Final = frozenset({"M", "F", "O"})  # HL70001 has the DICOM words
_PRELIMINARY: Final = "P"  # HL70085 and HL70123: not verified by a person


def render(report: Report) -> bytes:
    """Raises: RefusedError: `dicom_source_required`: without a patient and a study a result message has nowhere to go."""
    source = require_film(report.source, "An ORU message")
    segments = [_msh(report), _pid(source), _obr(report, source), *_observations(report, source)]
    return "".join(segment.rstrip("|") + "\r" for segment in segments).encode("utf-8")


def control_id(report: Report) -> str:
    """MSH-10, at most 20 characters."""
    return uids.token_of(*uids.object_facts(report, "oru"))


def escape(value: str) -> str:
    """One field component: delimiters escaped, control characters replaced by spaces."""
    return identity.printable(value).translate(_ESCAPES)


def _segment(name: str, fields: dict[int, str]) -> str:
    """Fields by their number in the standard."""
    return "|".join([name, *[fields.get(number, "") for number in range(1, max(fields) + 1)]])


def _msh(report: Report) -> str:
    # MSH-1 is the separator itself, so that the fields that follow stand one place earlier
    fields = {
        1: "^~\\&",
        2: escape(wording.MANUFACTURER),
        6: _instant(report),
        8: "ORU^R01^ORU_R01",
        9: control_id(report),
        10: "P",
        11: "2.5.1",
        17: "UNICODE UTF-8",
    }
    return _segment("MSH", fields)


def _pid(source: Source) -> str:
    """PID-3 and PID-5 are required. A film without a patient's id is filed under its study, marked as anonymous (HL70203), and a name
    that is not known says so (HL70200 `U`): a word in their place would be somebody's."""
    number = escape(identity.exact(source.patient_id))
    issuer = escape(identity.exact(source.issuer_of_patient_id))
    return _segment(
        "PID",
        {
            1: "1",
            3: f"{number}^^^{issuer}^PI" if number else f"{source.study_uid}^^^^ANON",
            5: _names(source.patient_name) or "^^^^^^U",
            7: identity.date(source.birth_date),
            8: source.sex if source.sex in _SEXES else "",
        },
    )


def _names(name: str) -> str:
    """XPN: DICOM has prefix before suffix, HL7 suffix before prefix."""
    groups = []
    for group, representation in zip(name.split("="), _REPRESENTATIONS, strict=False):
        parts = [escape(part) for part in group.split("^")[:5]]
        family, given, middle, prefix, suffix = parts + [""] * (5 - len(parts))
        if any((family, given, middle)):
            groups.append(f"{family}^{given}^{middle}^{suffix}^{prefix}^^L^{representation}")
    return "~".join(groups)


def _obr(report: Report, source: Source) -> str:
    return _segment(
        "OBR",
        {
            1: "1",
            3: f"{control_id(report)}^{escape(wording.MANUFACTURER)}",
            4: _coded(codes.IMAGING_STUDY),
            7: _taken(source),
            18: escape(identity.exact(source.accession_number)),  # where radiology systems look for it (IHE RAD)
            22: _instant(report),
            24: "RAD",
            25: _PRELIMINARY,
        },
    )


def _observations(report: Report, source: Source) -> Iterator[str]:
    rows: list[dict[int, str]] = [{2: "HD", 3: _coded(codes.STUDY), 5: f"^{source.study_uid}^ISO"}]
    for index, score in enumerate(report.decision.classes, 1):
        rows.extend(_class(score, index))
    rows.append({2: "CWE", 3: _coded(codes.LABEL), 5: _coded(codes.finding(report.decision.label))})
    lines = (wording.conclusion(report), *wording.comments(report), *wording.operating_point(report))
    rows.extend({2: "TX", 3: _coded(codes.COMMENT), 4: str(n), 5: escape(line)} for n, line in enumerate(lines, 1))
    for number, row in enumerate(rows, 1):
        always = {
            1: str(number),
            11: _PRELIMINARY,
            14: _instant(report),
            17: escape(wording.algorithm(report)),
            18: report.bundle_digest,
        }
        yield _segment("OBX", row | always)


def _class(score: ClassScore, index: int) -> Iterator[dict[int, str]]:
    """Two rows with one sub-id (OBX-4): how probable, and whether that is positive."""
    finding = _coded(codes.finding(score.name))
    limit = score.threshold_probability if wording.decided_by_threshold(score) else None
    normal = {} if limit is None else {7: f"<{limit:.9g}"}  # OBX-7: below the threshold it is negative
    yield {2: "NM", 3: finding, 4: str(index), 5: f"{score.probability:.9f}", 6: _coded(codes.NO_UNITS), **normal}
    yield {2: "CWE", 3: finding, 4: str(index), 5: _coded(codes.verdict(score.positive))}


def _coded(concept: Concept) -> str:
    # the coding schemes' names are those of HL70396
    return "^".join((escape(concept.value), escape(concept.meaning), concept.scheme))


def _taken(source: Source) -> str:
    """When the study began, local time, as exact as the header is."""
    day = identity.date(source.study_date)
    return day + identity.time(source.study_time).split(".")[0] if day else ""


def _instant(report: Report) -> str:
    """With offset from UTC, as HL7's TS writes it."""
    return report.judged_at.astimezone().strftime("%Y%m%d%H%M%S%z")
