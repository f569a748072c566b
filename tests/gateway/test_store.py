"""The gateway's database: durable settings in force, sealed contents, one writer, failures that leave nothing half written."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from app.errors import ConfigurationError, RecordsError, UnavailableError
from app.gateway.store import Store, drop_unused
from app.gateway.tables import SCHEMA_VERSION, contents, metadata
from app.records import Records
from app.settings import Settings
from tests.records.samples import event, prediction


def other(settings: Settings) -> sqlite3.Connection:
    return sqlite3.connect(settings.state_dir / "gateway.sqlite3", isolation_level=None)


def test_durability_is_in_force_and_the_file_is_private(settings: Settings) -> None:
    store = Store(settings)
    with store.write() as connection:
        found = {name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("synchronous", "journal_mode")}
    assert found == {"synchronous": 2, "journal_mode": "wal"}
    assert (settings.state_dir / "gateway.sqlite3").stat().st_mode & 0o777 == 0o600
    store.close()


def test_contents_are_sealed_and_open_only_where_they_belong(settings: Settings) -> None:
    store = Store(settings)
    with store.write() as connection:
        first, second = store.put(connection, "film/a", b"SECRET-A"), store.put(connection, "film/b", b"SECRET-B")
    assert store.get(first) == b"SECRET-A"
    with closing(other(settings)) as connection:
        connection.execute(
            f"UPDATE contents SET sealed = (SELECT sealed FROM contents WHERE id = {first}) WHERE id = {second}"
        )
    with pytest.raises(RecordsError) as refusal:
        store.get(second)
    assert refusal.value.code == "sealed_blob_damaged"
    with pytest.raises(RecordsError):
        store.get(99)
    store.close()
    assert b"SECRET" not in (settings.state_dir / "gateway.sqlite3").read_bytes()


def test_a_content_goes_with_its_last_reference(settings: Settings) -> None:
    store = Store(settings)
    with store.write() as connection:
        content = store.put(connection, "film/a", b"x")
        row = {
            "instance": "i",
            "series": "s",
            "study": "t",
            "sha256": "h",
            "peer": "p",
            "facts": b"",
            "state": "received",
        }
        times = {"attempts": 0, "next_at": 0.0, "received_at": 0.0, "changed_at": 0.0}
        connection.execute(insert(metadata.tables["films"]).values(**row, **times, content=content))
        drop_unused(connection, content)
        assert connection.execute(select(contents.c.id)).scalars().all() == [content]
        connection.execute(text("UPDATE films SET content = NULL"))
        drop_unused(connection, content, None)
        assert connection.execute(select(contents.c.id)).all() == []
    store.close()


def test_a_locked_database_is_unavailable_and_works_again_afterwards(settings: Settings) -> None:
    store = Store(settings)
    with closing(other(settings)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError) as refusal, store.write():
            pytest.fail("the lock was not seen")
        connection.execute("ROLLBACK")
    assert refusal.value.code == "audit_unavailable"
    assert store._writer is None  # a handle that failed is not used again
    with store.write() as again:
        store.put(again, "film/a", b"x")
    store.close()


def test_an_error_inside_leaves_nothing(settings: Settings) -> None:
    store = Store(settings)
    with suppress(ZeroDivisionError), store.write() as connection:
        store.put(connection, "film/a", b"x")
        raise ZeroDivisionError
    with store.read() as connection:
        assert connection.execute(select(contents.c.id)).all() == []
    store.close()


def test_one_gateway_at_a_time(settings: Settings) -> None:
    first, second = Store(settings), Store(settings)
    first.run_alone()
    with pytest.raises(ConfigurationError) as refusal:
        second.run_alone()
    assert refusal.value.code == "gateway_running"
    first.close()
    second.run_alone()
    second.close()


def test_a_newer_database_is_refused(settings: Settings) -> None:
    Store(settings).close()
    with closing(other(settings)) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(ConfigurationError) as refusal:
        Store(settings)
    assert refusal.value.code == "gateway_schema"


def test_a_lost_key_ring_is_not_replaced(settings: Settings) -> None:
    Store(settings).close()
    ring = settings.secrets_path / "keyring.json"
    ring.rename(ring.with_suffix(".away"))
    with pytest.raises(RecordsError) as refusal:
        Store(settings)
    assert refusal.value.code == "keyring_missing"


def test_a_lost_key_ring_of_the_service_is_not_replaced_either(settings: Settings) -> None:
    records = Records.open(settings, role="serve")
    records.record_now(event(0), prediction=prediction(0))
    records.close()
    (settings.secrets_path / "keyring.json").unlink()
    with pytest.raises(RecordsError) as refusal:
        Store(settings)
    assert refusal.value.code == "keyring_missing"


def test_the_key_ring_of_the_service_is_shared(settings: Settings, tmp_path: Path) -> None:
    """One ring for both, so that pseudonyms can be compared and one backup holds every key."""
    store = Store(settings)
    assert (settings.secrets_path / "keyring.json").exists()
    again = Store(settings.model_copy(update={"state_dir": tmp_path / "other", "secrets_dir": settings.secrets_path}))
    assert again.ring.pseudonym("x") == store.ring.pseudonym("x")
    store.close()
    again.close()
