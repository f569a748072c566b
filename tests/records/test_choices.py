"""Choices of engines: the newest holds, for its bundle and its machine; two writers never share a position; all of it is audited."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select

from app.errors import UnavailableError
from app.records import EngineChoice, Records
from app.records.choices import EVERYWHERE
from app.records.database import Database
from app.records.tables import audit_events, engine_choices
from app.settings import Settings
from tests.records.conftest import OpenRecords
from tests.records.samples import DIGEST

MACHINE = "EPYC; flags 0123456789ab; 2 cores"
MEASURED = {"onnxruntime-fp32": 14.25, "onnxruntime-int8": 8.0}
CHOICE = EngineChoice(DIGEST, MACHINE, "onnxruntime-int8", 1, MEASURED, "measured")


def test_the_newest_choice_holds_for_its_bundle_and_its_machine(settings: Settings, open_records: OpenRecords) -> None:
    one, two = open_records(settings), open_records(settings)
    assert one.choices.find(DIGEST, MACHINE) is None
    assert one.choices.choose(CHOICE) == 1
    found = two.choices.find(DIGEST, MACHINE)
    assert found is not None
    assert (found.variant, found.batch, found.measured, found.who) == ("onnxruntime-int8", 1, MEASURED, "measured")
    assert (found.position, found.at[:2]) == (1, "20")
    assert two.choices.find("e" * 64, MACHINE) is None
    assert two.choices.find(DIGEST, "another") is None

    assert two.choices.choose(EngineChoice(DIGEST, "another", "openvino-bf16", 2, {}, "dr. admin")) == 2
    assert one.choices.find(DIGEST, MACHINE) == found
    everywhere = EngineChoice(DIGEST, EVERYWHERE, "onnxruntime-fp32", 1, {}, "dr. admin")
    assert one.choices.choose(everywhere) == 3
    assert [c.variant for c in two.choices.list(DIGEST, MACHINE)] == ["onnxruntime-fp32", "onnxruntime-int8"]
    newest = two.choices.find(DIGEST, "another")
    assert newest is not None
    assert (newest.variant, newest.machine) == ("onnxruntime-fp32", EVERYWHERE)
    assert two.choices.choose(CHOICE) == 4
    again = one.choices.find(DIGEST, MACHINE)
    assert again is not None
    assert again.position == 4
    assert one.verify().problems == []


def test_a_choice_is_an_event_of_the_chain(settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(settings)
    records.choices.choose(CHOICE)
    database = Database(settings)
    with database.reader.connect() as connection:
        kinds = connection.execute(select(audit_events.c.kind).order_by(audit_events.c.seq)).scalars().all()
    assert kinds[-1] == "engine_chosen"
    with database.writer.begin() as connection:
        connection.execute(engine_choices.update().values(variant="openvino-bf16"))
    database.dispose()
    (problem,) = records.verify().problems
    assert "engine_choices" in str(problem)


def test_positions_of_many_processes_are_one_sequence(settings: Settings, open_records: OpenRecords) -> None:
    processes = [open_records(settings) for _ in range(3)]

    def choose(records: Records) -> None:
        for _ in range(4):
            records.choices.choose(CHOICE)

    threads = [threading.Thread(target=choose, args=(records,)) for records in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [c.position for c in processes[0].choices.list(DIGEST, MACHINE)] == list(range(12, 0, -1))
    assert processes[0].verify().problems == []


def test_what_cannot_be_recorded_is_no_choice(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    with pytest.raises(ValueError, match="NUL"):
        records.choices.choose(EngineChoice(DIGEST, "a\0b", "onnxruntime-fp32", 1, {}, "x"))
    assert records.choices.find(DIGEST, MACHINE) is None
    records.close()
    with pytest.raises(UnavailableError):
        records.choices.choose(CHOICE)
