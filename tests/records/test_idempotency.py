"""One answer for one Idempotency-Key: between coroutines, between processes, after a rotation, after an activation."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest
import sqlalchemy as sa

from app.errors import RequestError
from app.records import AuditEvent, EventId, KeyRing, KeyUse, Records, Repeated
from app.settings import Settings
from tests.records.conftest import OpenRecords
from tests.records.samples import DIGEST, JUDGED_AT, SOURCE, event, prediction

USE = KeyUse("abcdefgh", "CANARY-key-of-the-sender", DIGEST)
FINGERPRINT = "f" * 64
Written = tuple[EventId, Repeated | None]


async def write(records: Records, number: int = 0, use: KeyUse = USE, *, fingerprint: str = FINGERPRINT) -> Written:
    return await records.record_once(
        AuditEvent("predict", use.key_id, event(number).payload),
        use,
        fingerprint,
        JUDGED_AT,
        prediction=prediction(number, key_id=use.key_id),
        source=SOURCE,
    )


def count(records: Records, table: str) -> int:
    with records._database.reader.connect() as connection:
        found: int = connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
        return found


def test_a_repeat_names_the_first_and_adds_no_row(settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(settings)
    first, nothing = asyncio.run(write(records, 1))
    assert nothing is None
    second, repeated = asyncio.run(write(records, 2))
    assert repeated == Repeated(first, "request-000001", JUDGED_AT, FINGERPRINT)
    assert second == EventId(records.chain_id, first.seq + 1)
    assert asyncio.run(records.first_use(USE)) == repeated
    assert [count(records, t) for t in ("predictions", "film_sources", "idempotency_keys")] == [1, 1, 1]
    with records._database.reader.connect() as connection:
        query = sa.text("SELECT kind, payload FROM audit_events NATURAL JOIN audit_payloads WHERE seq = :seq")
        kind, payload = connection.execute(query, {"seq": second.seq}).one()
    assert kind == "repeat"
    assert json.loads(payload) == {
        "request_id": "request-000002",
        "route": "predict",
        "first": {"chain_id": first.chain_id, "seq": first.seq, "request_id": "request-000001"},
    }
    assert records.verify().problems == []


def test_many_first_uses_at_once_leave_one(settings: Settings, open_records: OpenRecords) -> None:
    """From two processes' records at the same time: the check is inside the writing transaction."""
    records = [open_records(settings), open_records(settings)]

    async def all_() -> list[Written]:
        return await asyncio.gather(*(write(records[i % 2], i) for i in range(20)))

    written = asyncio.run(all_())
    (first,) = [event_id for event_id, repeated in written if repeated is None]
    assert {repeated.event for _, repeated in written if repeated is not None} == {first}
    assert len({event_id for event_id, _ in written}) == 20
    assert [count(records[0], t) for t in ("predictions", "film_sources", "idempotency_keys")] == [1, 1, 1]
    assert records[0].verify().problems == []


def test_another_request_under_the_same_key_is_refused(settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(settings)
    asyncio.run(write(records))
    with pytest.raises(RequestError) as caught:
        asyncio.run(write(records, 1, fingerprint="e" * 64))
    assert (caught.value.code, caught.value.status) == ("idempotency_key_reused", 422)
    assert count(records, "audit_events") == 2
    assert records.healthy


@pytest.mark.parametrize("change", [{"key_id": "other123"}, {"text": "another"}, {"bundle_digest": "0" * 64}])
def test_what_makes_a_key_another_one(
    sqlite_settings: Settings, open_records: OpenRecords, change: dict[str, str]
) -> None:
    records = open_records(sqlite_settings)
    asyncio.run(write(records, 1))
    other = dataclasses.replace(USE, **change)
    assert asyncio.run(records.first_use(other)) is None
    assert asyncio.run(write(records, 2, other))[1] is None
    assert count(records, "predictions") == 2


def test_a_key_is_known_after_a_rotation(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    first, _ = asyncio.run(write(open_records(sqlite_settings), 1))
    KeyRing.open(sqlite_settings.secrets_path / "keyring.json", create=False).rotate("pseudonym")
    _, repeated = asyncio.run(write(open_records(sqlite_settings), 2))
    assert repeated is not None
    assert repeated.event == first


def test_the_text_of_a_key_is_not_stored(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    asyncio.run(write(records))
    assert "CANARY" not in repr(USE)
    files = [p for p in sqlite_settings.state_dir.rglob("*") if p.is_file()]
    assert len(files) >= 3
    assert not [p for p in files if b"CANARY" in p.read_bytes()]
