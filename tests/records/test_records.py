"""Opening: what must fit together before the service starts."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from app.errors import ConfigurationError, RecordsError, UnavailableError
from app.records import Records, verify
from app.records.database import Database, migrate
from app.settings import Settings
from tests.records.conftest import OpenRecords
from tests.records.samples import SOURCE, event, prediction


def _code(settings: Settings) -> str:
    with pytest.raises((RecordsError, ConfigurationError)) as caught:
        Records.open(settings, role="serve")
    return caught.value.code


def test_a_database_without_its_ring_is_refused(settings: Settings) -> None:
    Records.open(settings, role="serve").close()
    (settings.secrets_path / "keyring.json").unlink()
    assert _code(settings) == "keyring_missing"


def test_a_ring_that_others_can_read_is_refused(sqlite_settings: Settings) -> None:
    Records.open(sqlite_settings, role="serve").close()
    (sqlite_settings.secrets_path / "keyring.json").chmod(0o644)
    assert _code(sqlite_settings) == "keyring_permissions"


def test_a_database_of_another_ring_is_refused(settings: Settings, tmp_path: Path) -> None:
    Records.open(settings, role="serve").close()
    shutil.rmtree(settings.secrets_path)
    other = Settings(state_dir=tmp_path / "other")
    Records.open(other, role="serve").close()
    shutil.copytree(other.secrets_path, settings.secrets_path)
    assert _code(settings) == "keyring_mismatch"


def test_a_rotated_ring_goes_on(settings: Settings, open_records: OpenRecords) -> None:
    from app.records import KeyRing

    open_records(settings).record_now(event(1))
    KeyRing.open(settings.secrets_path / "keyring.json", create=False).rotate("audit_mac")
    records = open_records(settings)
    records.record_now(event(2))
    report = records.verify()
    assert (report.problems, report.events, report.chains) == ([], 4, 2)


def test_an_unreachable_postgres_is_said(tmp_path: Path) -> None:
    url = f"postgresql+pg8000://u:hidden@/d?unix_sock={tmp_path}/none"
    with pytest.raises(RecordsError) as caught:
        Records.open(Settings(state_dir=tmp_path, database_url=url), role="serve")
    assert caught.value.code == "audit_store_unavailable"
    assert "hidden" not in str(caught.value)


def test_postgres_without_its_driver_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.records.database.find_spec", lambda _: None)
    settings = Settings(state_dir=tmp_path / "state", database_url="postgresql+pg8000://u@127.0.0.1:1/x")
    assert _code(settings) == "database_driver"


def test_a_window_that_cannot_be_read_is_unavailable(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    with sqlite3.connect(sqlite_settings.state_dir / "cxr.sqlite3") as database:
        database.execute("ALTER TABLE predictions RENAME TO gone")
    until = datetime.now(UTC)
    with pytest.raises(UnavailableError) as caught:
        asyncio.run(records.window(until - timedelta(days=1), until))
    assert caught.value.code == "audit_unavailable"


def test_a_file_that_is_no_database_is_refused(sqlite_settings: Settings) -> None:
    Records.open(sqlite_settings, role="serve").close()
    (sqlite_settings.state_dir / "cxr.sqlite3").write_bytes(b"not a database" * 100)
    assert _code(sqlite_settings) == "audit_store_damaged"


def test_a_read_only_database_refuses_to_start(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Run as an ordinary user, since root may write to anything."""
    Records.open(sqlite_settings, role="serve").close()
    state = sqlite_settings.state_dir
    (state / "cxr.sqlite3").chmod(0o444)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from app.errors import RecordsError\n"
        "from app.records import Records\n"
        "from app.settings import Settings\n"
        "if os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
        "try:\n    Records.open(Settings(state_dir=Path(sys.argv[1])), role='serve')\n"
        "except RecordsError as error:\n    print(error.code)\n"
    )
    if os.getuid() == 0:
        for path in (tmp_path.parent.parent, tmp_path.parent, tmp_path):
            path.chmod(0o711)
        for path in (state, *state.rglob("*")):
            os.chown(path, 65534, 65534)
    run = subprocess.run([sys.executable, "-c", code, str(state)], capture_output=True, text=True, check=False)
    assert run.stdout.strip() in {"audit_store_read_only", "sqlite_pragma"}, run.stderr


def test_the_first_event_names_other_chains(settings: Settings, open_records: OpenRecords) -> None:
    first = open_records(settings)
    last = first.record_now(event(1))
    second = open_records(settings, role="cli")
    second.record_now(event(2))
    with first._database.reader.connect() as connection:
        payload = connection.exec_driver_sql(
            f"SELECT payload FROM audit_payloads WHERE chain_id = '{second.chain_id}' AND seq = 0"
        ).scalar_one()
    named = json.loads(payload)
    assert named["role"] == "cli"
    assert set(named["heads"]) == {first.chain_id}
    assert named["heads"][first.chain_id][0] == last.seq


def test_heads_are_logged(sqlite_settings: Settings) -> None:
    with structlog.testing.capture_logs() as logs:
        records = Records.open(sqlite_settings, role="serve", tick_s=0.05)
        records.record_now(event(1))
        deadline = asyncio.run(_soon(lambda: any(e["event"] == "audit_head" and e["seq"] == 1 for e in logs)))
        records.close()
    assert deadline
    (mac,) = {e["mac"] for e in logs if e["event"] == "audit_head" and e["seq"] == 1}
    assert records._writer.head.mac == mac


async def _soon(condition: object, seconds: float = 5.0) -> bool:
    assert callable(condition)
    for _ in range(int(seconds / 0.02)):
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False


def test_recording_is_cheap_for_the_event_loop(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    """CPU of the loop's thread per event, at 16 at a time; the target is 0.3 ms, doubled here for shared machines."""
    import time

    records = open_records(sqlite_settings)

    async def submit() -> float:
        began = time.thread_time()
        for i in range(0, 480, 16):
            await asyncio.gather(*(records.record(event(i + k), prediction=prediction(i + k)) for k in range(16)))
        return (time.thread_time() - began) / 480

    per_event = asyncio.run(submit())
    print(f"loop CPU per event: {per_event * 1e3:.3f} ms")
    assert per_event < 0.6e-3


def test_records_of_the_version_before_are_whole_after_the_upgrade(
    settings: Settings, open_records: OpenRecords
) -> None:
    old = Records.open(settings, role="serve")
    old.record_now(event(1), prediction=prediction(1))
    old.close()
    database = Database(settings)
    migrate(database.writer, "0001")  # takes away what that version did not have
    database.dispose()
    (problem,) = verify(settings).problems
    assert problem.what.startswith("not checked: the database is at migration 0001")
    records = open_records(settings)
    asyncio.run(records.record(event(2), prediction=prediction(2), source=SOURCE))
    report = records.verify()
    assert (report.problems, report.predictions) == ([], 2)
