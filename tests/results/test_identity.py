from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.valuerep import validate_value

from app.domain import Source
from app.errors import RefusedError
from app.results import identity
from tests.results import samples
from tests.support.decisions import unhurried

TEXT = st.text(st.characters(codec=None), max_size=100)
HEADERS = {
    "patient_name", "patient_id", "issuer_of_patient_id", "birth_date", "sex", "study_id", "study_date", "study_time",
    "study_description", "accession_number", "referring_physician",
}  # fmt: skip


@st.composite
def odd_sources(draw: st.DrawFn) -> Source:
    """A film with usable UIDs and anything at all in its text."""
    changed: dict[str, Any] = {field: draw(TEXT) for field in sorted(draw(st.sets(st.sampled_from(sorted(HEADERS)))))}
    return samples.source(1, **changed)


@unhurried
@given(odd_sources())
def test_every_value_is_valid_for_its_representation(source: Source) -> None:
    for keyword, value in identity.patient_and_study(source).items():
        validate_value(dictionary_VR(keyword), value, config.RAISE)
        assert not any(c in value for c in "\\\r\n\0\x1b"), keyword
        value.encode("utf-8")


@unhurried
@given(TEXT, st.integers(1, 64))
def test_an_identifier_is_exact_or_nothing(value: str, length: int) -> None:
    assert identity.identifier(value, length) in {value.strip(" "), ""}


@pytest.mark.parametrize(
    ("value", "passed_on"),
    [
        ("ACC1", "ACC1"),
        (" ACC1 ", "ACC1"),
        ("A" * 16, "A" * 16),
        ("A" * 17, ""),  # cut, it would be the number of another order
        ("A\\B", ""),
        ("A\nB", ""),
        ("A\ud800", ""),
        ("", ""),
    ],
)
def test_accession_numbers(value: str, passed_on: str) -> None:
    assert identity.patient_and_study(samples.source(1, accession_number=value))["AccessionNumber"] == passed_on


@pytest.mark.parametrize(
    ("value", "passed_on"),
    [
        ("Doe^Jo", "Doe^Jo"),
        ("山田^太郎", "山田^太郎"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("a^b^c^d^e^f", "a^b^c^d^e"),
        ("a=b=c=d", "a=b=c"),
        ("=山田", "=山田"),
        ("a\\b\r\n^c", "a b  ^c"),
        ("x" * 70 + "^y", "x" * 64),
        ("^^^^", ""),
    ],
)
def test_person_names(value: str, passed_on: str) -> None:
    assert identity.person_name(value) == passed_on


@pytest.mark.parametrize("value", ["20240229", "19000101"])
def test_days_that_exist(value: str) -> None:
    assert identity.date(value) == value


@pytest.mark.parametrize("value", ["20230229", "2024.02.29", "2024", "00000000", "20241301", "٢٠٢٤٠١٠١", "20240101 "])
def test_days_that_do_not(value: str) -> None:
    assert identity.date(value) == ""


@pytest.mark.parametrize("value", ["10", "1011", "101112", "101112.5", "101112.123456"])
def test_times(value: str) -> None:
    assert identity.time(value) == value


@pytest.mark.parametrize("value", ["24", "1", "10:11", "1060", "101112.", "101112.1234567", "101112-0500", "235960"])
def test_times_that_are_none(value: str) -> None:
    assert identity.time(value) == ""


@pytest.mark.parametrize(
    ("words", "passed_on"),
    [(("L", "F"), ["L", "F"]), (("LA", "FP"), ["LA", "FP"]), ((), []), (("L",), []), (("X", "F"), []), (("", "F"), [])],
)
def test_orientation(words: tuple[str, ...], passed_on: list[str]) -> None:
    assert identity.orientation(words) == passed_on


def test_uids_with_leading_zeros_are_taken_as_they_stand() -> None:
    source = samples.source(1, study_uid="1.2.0777.01")
    assert identity.require_film(source, "It").study_uid == "1.2.0777.01"


def test_a_film_is_required() -> None:
    with pytest.raises(RefusedError, match="It goes into the study"):
        identity.require_film(None, "It")
