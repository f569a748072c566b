"""Films are found by pseudonym, and nobody is named."""

from __future__ import annotations

import asyncio
import dataclasses

import sqlalchemy as sa

from app.records import AuditEvent, KeyRing
from app.settings import Settings
from tests.records.conftest import OpenRecords
from tests.records.samples import SOURCE, event, prediction


def test_films_are_found_by_what_they_are_called(settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(settings)
    other = dataclasses.replace(SOURCE, sop_instance_uid="2.25.99")
    first = asyncio.run(records.record(event(1), prediction=prediction(1), source=SOURCE))
    explained = AuditEvent("gradcam", None, {"request_id": "r", "label": "normal"})
    second = asyncio.run(records.record(explained, source=other))
    asyncio.run(records.record(event(3), prediction=prediction(3)))  # a JPEG
    found = records.find_films("study", "2.25.12")
    assert [(f.chain_id, f.seq, f.kind, f.label) for f in found] == [
        (second.chain_id, second.seq, "gradcam", "normal"),
        (first.chain_id, first.seq, "predict", "pneumonia"),
    ]
    assert found[0].at >= found[1].at
    assert [f.seq for f in records.find_films("instance", "2.25.99")] == [second.seq]
    assert [f.seq for f in records.find_films("patient", "CANARY-ISSUER", "CANARY-ID")] == [second.seq, first.seq]
    assert records.find_films("patient", "", "CANARY-ID") == ()
    assert records.find_films("study", "2.25.11") == ()  # an instance is no study
    assert records.verify().problems == []


def test_films_are_found_after_a_rotation(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    first = asyncio.run(open_records(sqlite_settings).record(event(1), prediction=prediction(1), source=SOURCE))
    KeyRing.open(sqlite_settings.secrets_path / "keyring.json", create=False).rotate("pseudonym")
    records = open_records(sqlite_settings)
    second = asyncio.run(records.record(event(2), prediction=prediction(2), source=SOURCE))
    assert [(f.chain_id, f.seq) for f in records.find_films("study", "2.25.12")] == [
        (second.chain_id, second.seq),
        (first.chain_id, first.seq),
    ]


def test_a_silent_header_has_no_pseudonym(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    """An empty identifier would make one patient of all who have none."""
    records = open_records(sqlite_settings)
    nobody = dataclasses.replace(SOURCE, patient_id="", study_uid="")
    asyncio.run(records.record(event(1), prediction=prediction(1), source=nobody))
    with records._database.reader.connect() as connection:
        row = connection.execute(sa.text("SELECT patient, study, instance FROM film_sources")).one()
    assert (row.patient, row.study) == (None, None)
    assert row.instance is not None
    assert records.find_films("patient", "CANARY-ISSUER", "") == ()


def test_a_number_that_is_two_things_has_two_pseudonyms(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    same = dataclasses.replace(
        SOURCE, patient_id="1.2", issuer_of_patient_id="", study_uid="1.2", sop_instance_uid="1.2"
    )
    asyncio.run(records.record(event(1), prediction=prediction(1), source=same))
    with records._database.reader.connect() as connection:
        row = connection.execute(sa.text("SELECT patient, study, instance FROM film_sources")).one()
    assert len(set(row)) == 3


def test_padding_makes_no_other_patient_and_odd_text_no_failure(
    sqlite_settings: Settings, open_records: OpenRecords
) -> None:
    records = open_records(sqlite_settings)
    padded = dataclasses.replace(
        SOURCE, patient_id=" CANARY-ID ", study_uid="2.25.12\0", sop_instance_uid="2.25.\ud800"
    )
    asyncio.run(records.record(event(1), prediction=prediction(1), source=padded))
    assert len(records.find_films("patient", "CANARY-ISSUER", "CANARY-ID")) == 1
    assert len(records.find_films("study", "2.25.12")) == 1
    assert len(records.find_films("instance", "2.25.\ud800")) == 1


def test_no_identifier_is_stored(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    asyncio.run(records.record(event(1), prediction=prediction(1), source=SOURCE))
    files = [p for p in sqlite_settings.state_dir.rglob("*") if p.is_file()]
    assert len(files) >= 3
    assert not [p for p in files if b"CANARY" in p.read_bytes() or b"2.25.1" in p.read_bytes()]
