"""What the gateway reads of a film, and that it never trusts it."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import Dataset

from app.errors import ImageError
from app.gateway.header import FilmFacts, read_facts
from tests.support.dicom_films import CANARY, dicom_film

LIMIT = 10_000_000
ROOT = "1.2.826.0.1.3680043.10.1000"


def film(**attributes: Any) -> bytes:
    return dicom_film(1, size=(64, 64), **attributes)


def test_facts_of_a_film() -> None:
    facts = read_facts(film(ImageType=["DERIVED", "PRIMARY"], ViewPosition="AP", InstanceNumber=12), LIMIT)
    assert facts == FilmFacts(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        sop_instance_uid=f"{ROOT}.1.3",
        study_uid=f"{ROOT}.1.1",
        series_uid=f"{ROOT}.1.2",
        modality="CR",
        body_part="CHEST",
        view="AP",
        image_type=("DERIVED", "PRIMARY"),
        instance_number=12,
    )
    assert facts.derived
    assert FilmFacts.from_json(facts.to_json()) == facts
    assert ROOT not in repr(facts)


def test_a_silent_header_is_empty() -> None:
    facts = read_facts(film(ViewPosition=None, BodyPartExamined=None, InstanceNumber=None, ImageType=None), LIMIT)
    assert (facts.view, facts.body_part, facts.image_type, facts.instance_number) == ("", "", (), None)


@pytest.mark.parametrize(
    ("stated", "code", "view"),
    [
        ("LAT", None, "LATERAL"),
        ("SIDEWAYS", None, "other"),
        (None, "399348003", "AP"),
        (None, "1", "other"),
        ("PA", "1", "PA"),
    ],
)
def test_the_view_is_its_word_or_else_its_code(stated: str | None, code: str | None, view: str) -> None:
    item = Dataset()
    item.CodeValue = code or ""
    data = film(ViewPosition=stated, **{"ViewCodeSequence": [item]} if code else {})
    assert read_facts(data, LIMIT).view == view


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "malformed_dicom"),
        (b"\xff\xd8\xff" + bytes(200), "malformed_dicom"),
        (film()[:200], "truncated_image"),
        (film()[:-1], "truncated_image"),
        (b"MZ" + film()[2:], "executable_preamble"),
        (
            film(Modality="CR").replace(b"1.2.826.0.1.3680043.10.1000.1.3", b"1.2.826.0.1.3680043.10.1000.x.3"),
            "malformed_dicom",
        ),
        (film(StudyInstanceUID=None), "malformed_dicom"),
        (film(SeriesInstanceUID=""), "malformed_dicom"),
    ],
)
def test_what_is_no_film_has_a_code(data: bytes, code: str) -> None:
    with pytest.raises(ImageError) as refusal:
        read_facts(data, LIMIT)
    assert refusal.value.code == code
    assert CANARY not in str(refusal.value)


def test_a_file_that_is_too_large() -> None:
    with pytest.raises(ImageError) as refusal:
        read_facts(film(), 1_000)
    assert refusal.value.code == "payload_too_large"
