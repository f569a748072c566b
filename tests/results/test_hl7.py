from __future__ import annotations

from typing import Any

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import ValidationError
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import ClassScore, Source
from app.results import Report, hl7, make
from tests.results import samples
from tests.results.test_identity import TEXT, odd_sources
from tests.support.decisions import unhurried


def message(report: Report) -> list[list[str]]:
    """Segments as lists of fields; index = number in the standard (MSH one less)."""
    raw = make("oru", report).decode("utf-8")
    assert raw.endswith("\r")
    assert "\n" not in raw
    return [segment.split("|") for segment in raw[:-1].split("\r")]


def segments(report: Report, name: str) -> list[list[str]]:
    return [fields for fields in message(report) if fields[0] == name]


def parsed(report: Report, level: int) -> Any:
    raw = make("oru", report).decode("utf-8")
    return parse_message(raw, validation_level=level, find_groups=True)


@pytest.mark.parametrize("film", sorted(samples.SOURCES))
def test_hl7apy_reads_and_validates_it(film: str) -> None:
    """Strictly, but for the film whose identifiers are longer than the fields of v2.5.1: they are passed on exactly."""
    level = VALIDATION_LEVEL.TOLERANT if film == "odd" else VALIDATION_LEVEL.STRICT
    read = parsed(samples.report(source=samples.SOURCES[film]), level)
    assert read.name == "ORU_R01"
    assert read.validate()


def test_hl7apy_would_refuse() -> None:
    raw = make("oru", samples.report()).decode("utf-8").replace("ID-1^^^Hospital^PI", "")
    with pytest.raises(ValidationError):
        parse_message(raw, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True).validate()


def test_the_header() -> None:
    (msh,) = segments(samples.report(), "MSH")
    assert msh[1] == "^~\\&"
    assert msh[8] == "ORU^R01^ORU_R01"
    assert (msh[10], msh[11], msh[17]) == ("P", "2.5.1", "UNICODE UTF-8")
    assert msh[6] == "20260203040506+0000"


def test_the_control_id_is_that_of_the_result() -> None:
    def control(report: Report) -> str:
        return segments(report, "MSH")[0][9]

    first = control(samples.report())
    assert len(first) == 20
    assert control(samples.report(request_id="another")) == first
    assert control(samples.report(bundle_digest="0" * 64)) != first
    assert control(samples.report(source=samples.source(2))) != first


def test_the_patient() -> None:
    (pid,) = segments(samples.report(), "PID")
    assert (pid[3], pid[5], pid[7], pid[8]) == ("ID-1^^^Hospital^PI", "Canary^Jo^^^^^L^A", "20170305", "F")


def test_a_patient_without_id_and_name() -> None:
    """The study stands in, marked as anonymous; no word that could be somebody's."""
    (pid,) = segments(samples.report(source=samples.SOURCES["bare"]), "PID")
    assert (pid[3], pid[5]) == ("1.2.3.4.5^^^^ANON", "^^^^^^U")


def test_a_name_in_three_scripts_with_prefix_and_suffix() -> None:
    name = "Yamada^Tarou^M^Dr.^Jr.=山田^太郎=やまだ^たろう"
    (pid,) = segments(samples.report(source=samples.source(1, patient_name=name)), "PID")
    assert pid[5] == "Yamada^Tarou^M^Jr.^Dr.^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P"


def test_the_order() -> None:
    (obr,) = segments(samples.report(), "OBR")
    assert obr[4] == "18748-4^Diagnostic imaging study^LN"
    assert (obr[7], obr[18], obr[25]) == ("20210401101112", "ACC1", "P")


def test_the_observations() -> None:
    rows = segments(samples.report(), "OBX")
    assert [row[1] for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
    study, probability, decided, normal, _, label = rows[:6]
    assert (study[2], study[3], study[5]) == (
        "HD",
        "113014^DICOM Study^DCM",
        f"^{samples.source().study_uid}^ISO",
    )
    assert probability[2:8] == ["NM", "233604007^Pneumonia^SCT", "1", "0.873123457", "1^no units^UCUM", "<0.2221"]
    assert decided[2:6] == ["CWE", "233604007^Pneumonia^SCT", "1", "10828004^Positive^SCT"]
    assert normal[3:8] == ["17621005^Normal^SCT", "2", "0.126876543", "1^no units^UCUM", ""]
    assert label[5] == "233604007^Pneumonia^SCT"
    assert {row[11] for row in rows} == {"P"}
    assert any("not a diagnosis" in row[5] for row in rows if row[2] == "TX")


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("a|b", r"a\F\b"),
        ("a^b", r"a\S\b"),
        ("a&b", r"a\T\b"),
        ("a~b", r"a\R\b"),
        ("a\\b", r"a\E\b"),
        (r"\F\|", r"\E\F\E\\F" + "\\"),
        ("a\r\nb\0", "a  b"),
        ("ß山", "ß山"),
    ],
)
def test_escaping(plain: str, escaped: str) -> None:
    assert hl7.escape(plain) == escaped


@unhurried
@given(TEXT)
def test_escaped_text_holds_no_delimiter_and_comes_back(value: str) -> None:
    escaped = hl7.escape(value)
    assert not set(escaped) & set("|^~&\r\n")
    escaped.encode("utf-8")
    if value.isprintable():
        assert unescape(escaped) == value.strip(" ")


@unhurried
@given(odd_sources(), st.booleans())
def test_any_header_gives_a_message_of_the_same_shape(source: Source, bare: bool) -> None:
    """Nothing in a header can make a segment, a field or a component."""
    changed = samples.report(source=source)
    names = [fields[0] for fields in message(changed)]
    assert names == ["MSH", "PID", "OBR", *["OBX"] * 14]
    (pid,) = segments(changed, "PID")
    assert len(pid) <= 9
    assert pid[3].count("^") == 4
    assert all(repetition.count("^") in {6, 7} for repetition in pid[5].split("~"))


@settings(deadline=None, max_examples=40)
@given(TEXT)
def test_an_identifier_comes_back_exactly_or_not_at_all(value: str) -> None:
    (pid,) = segments(samples.report(source=samples.source(1, patient_id=value)), "PID")
    first, kind = pid[3].split("^")[0], pid[3].split("^")[4]
    assert (kind == "ANON") or unescape(first) == value.strip(" ")


def unescape(escaped: str) -> str:
    """Left to right, so that an escaped backslash cannot begin another sequence."""
    out, rest = [], escaped
    codes = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}
    while rest:
        if rest[0] == "\\":
            assert rest[2] == "\\"
            out.append(codes[rest[1]])
            rest = rest[3:]
        else:
            out.append(rest[0])
            rest = rest[1:]
    return "".join(out)


def test_a_class_that_is_no_finding_or_is_outranked_has_no_range() -> None:
    """OBX-7 says where a value is negative; here the verdict is not the threshold's."""
    outranked = ClassScore("normal", 0.9, 2.0, 2.0, 1.0, 0.6, False)
    decided = samples.decision(classes=(samples.decision().classes[0], outranked))
    ranges = {
        obx[3].split("^")[1]: obx[7] for obx in segments(samples.report(decision=decided), "OBX") if obx[2] == "NM"
    }
    assert ranges["Pneumonia"].startswith("<")
    assert ranges["Normal"] == ""
