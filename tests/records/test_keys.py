from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.domain import LANES, Lane, Principal, Role
from app.errors import RecordsError
from app.records import Records, new_key_text
from app.records.keycache import REFRESH_S
from app.records.keytext import KeyText, parse_key_text
from app.settings import Settings
from tests.records.conftest import OpenRecords


def _id(text: str) -> str:
    key = parse_key_text(text)
    assert key is not None
    return key.id


def test_a_key_is_made_used_listed_and_revoked(settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(settings)
    text = records.keys.create(Role.TECHNICIAN, "PACS north")
    key_id = _id(text)
    assert records.authenticate(text) == Principal(key_id, "PACS north", Role.TECHNICIAN)
    (info,) = records.keys.list()
    assert (info.id, info.role, info.name, info.revoked_at) == (key_id, Role.TECHNICIAN, "PACS north", None)
    records.keys.revoke(key_id)
    assert records.authenticate(text) is None
    assert records.keys.list()[0].revoked_at is not None
    for key, code in ((key_id, "already_revoked"), ("zzzzzzzz", "unknown_key")):
        with pytest.raises(RecordsError) as caught:
            records.keys.revoke(key)
        assert caught.value.code == code
    report = records.verify()
    assert (report.problems, report.events) == ([], 3)


def test_the_secret_is_nowhere_in_the_database(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    key = parse_key_text(records.keys.create(Role.ADMIN, "a"))
    assert key is not None
    records.close()
    data = b"".join(path.read_bytes() for path in sqlite_settings.state_dir.iterdir() if path.is_file())
    assert key.id.encode() in data
    assert key.secret.encode() not in data


def test_a_wrong_secret_or_a_mistyped_key_is_refused(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    text = records.keys.create(Role.ADMIN, "a")
    forged = str(KeyText(_id(text), new_key_text().secret))
    for bad in (forged, str(new_key_text()), text[:-1], text + "0", "", "cxr_", text.upper()):
        assert records.authenticate(bad) is None
    assert records.authenticate(text) is not None


@pytest.mark.parametrize("column", ["role", "id"])
def test_a_row_that_was_changed_fits_no_secret(
    sqlite_settings: Settings, open_records: OpenRecords, column: str
) -> None:
    """Raising a role by SQL gives nothing: the stored MAC binds it."""
    records = open_records(sqlite_settings)
    text = records.keys.create(Role.TECHNICIAN, "a")
    with sa.create_engine(sqlite_settings.database, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql(f"UPDATE api_keys SET {column} = ?", ("admin" if column == "role" else "zzzzzzzz",))
    other = open_records(sqlite_settings, role="cli")
    assert other.authenticate(text) is None


def test_names_are_short_and_printable(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    for name in ("", "x" * 65, "a\nb", "a\0b"):
        with pytest.raises(RecordsError, match="printable"):
            records.keys.create(Role.ADMIN, name)
    assert records.keys.list() == ()


def test_the_first_admin_key_is_made_once(settings: Settings, open_records: OpenRecords) -> None:
    """Six replicas at once on an empty database: one key."""
    replicas = [open_records(settings) for _ in range(6)]
    start = threading.Barrier(len(replicas))
    made: list[str | None] = []

    def ensure(records: Records) -> None:
        start.wait()
        made.append(records.keys.ensure_admin_key())

    threads = [threading.Thread(target=ensure, args=(records,)) for records in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (text,) = [m for m in made if m is not None]
    (info,) = replicas[0].keys.list()
    assert (info.id, info.role) == (_id(text), Role.ADMIN)
    assert replicas[0].keys.ensure_admin_key() is None
    assert replicas[0].healthy


def test_a_key_has_a_lane(settings: Settings, open_records: OpenRecords) -> None:
    """Made with the key, by one audited event; the default leaves no row, so that a key is stored as it always was."""
    records = open_records(settings)
    lanes: dict[Lane, str] = {lane: records.keys.create(Role.SERVICE, lane, lane=lane) for lane in LANES}
    for lane, text in lanes.items():
        assert records.authenticate(text) == Principal(_id(text), lane, Role.SERVICE, lane)
    assert [info.lane for info in records.keys.list()] == list(LANES)
    with sa.create_engine(settings.database, poolclass=sa.NullPool).connect() as connection:
        rows = connection.execute(sa.text("SELECT id, lane FROM api_key_lanes")).all()
    assert sorted(tuple(row) for row in rows) == sorted((_id(lanes[lane]), lane) for lane in ("stat", "bulk"))
    assert records.verify().problems == []


def test_a_lane_that_was_changed_in_the_table_is_found(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    text = records.keys.create(Role.SERVICE, "a", lane="bulk")
    with sa.create_engine(sqlite_settings.database, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql("UPDATE api_key_lanes SET lane = 'express'")
    other = open_records(sqlite_settings, role="cli")
    principal = other.authenticate(text)
    assert principal is not None
    assert principal.lane == "routine"  # no version of ours wrote that word
    assert other.verify().problems != []


def test_an_import_takes_lanes(sqlite_settings: Settings, open_records: OpenRecords, tmp_path: Path) -> None:
    records = open_records(sqlite_settings)
    key, other = new_key_text(), new_key_text()
    file = tmp_path / "keys"
    file.write_text(f"service ward {key} stat\nservice night {other} routine\n")
    assert records.keys.import_file(file) == 2
    assert records.keys.import_file(file) == 0
    assert records.authenticate(str(key)) == Principal(key.id, "ward", Role.SERVICE, "stat")
    file.write_text(f"service ward {key} bulk\n")
    with pytest.raises(RecordsError) as caught:
        records.keys.import_file(file)
    assert caught.value.code == "key_conflict"


def test_keys_are_imported_once_and_again(sqlite_settings: Settings, open_records: OpenRecords, tmp_path: Path) -> None:
    records = open_records(sqlite_settings)
    keys = {role: new_key_text() for role in (Role.MONITOR, Role.SERVICE)}
    file = tmp_path / "keys"
    file.write_text(
        "# made by the init service\n\n" + "".join(f"{role} compose-{role} {key}\n" for role, key in keys.items())
    )
    assert records.keys.import_file(file) == 2
    assert records.keys.import_file(file) == 0
    for role, key in keys.items():
        assert records.authenticate(str(key)) == Principal(key.id, f"compose-{role}", role)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("monitor prometheus {key}x", "import_malformed"),
        ("emperor prometheus {key}", "import_malformed"),
        ("monitor {key}", "import_malformed"),
        ("monitor prometheus {key} more", "import_malformed"),
        ("monitor prometheus {key} stat more", "import_malformed"),
    ],
)
def test_a_bad_import_takes_nothing(
    sqlite_settings: Settings, open_records: OpenRecords, tmp_path: Path, line: str, code: str
) -> None:
    records = open_records(sqlite_settings)
    file = tmp_path / "keys"
    file.write_text(f"monitor good {new_key_text()}\n" + line.format(key=new_key_text()))
    with pytest.raises(RecordsError, match="line 2") as caught:
        records.keys.import_file(file)
    assert caught.value.code == code
    assert records.keys.list() == ()


def test_an_import_that_contradicts_a_key_is_refused(
    sqlite_settings: Settings, open_records: OpenRecords, tmp_path: Path
) -> None:
    records = open_records(sqlite_settings)
    text = records.keys.create(Role.MONITOR, "prometheus")
    file = tmp_path / "keys"
    for line in (
        f"admin prometheus {text}",
        f"monitor other {text}",
        f"monitor prometheus {KeyText(_id(text), 'A' * 43)}",
    ):
        file.write_text(line)
        with pytest.raises(RecordsError) as caught:
            records.keys.import_file(file)
        assert caught.value.code == "key_conflict"
    with pytest.raises(RecordsError):
        records.keys.import_file(tmp_path / "none")


def test_a_key_of_another_process_works_at_once_and_a_revocation_within_two_seconds(
    settings: Settings, open_records: OpenRecords
) -> None:
    service, command = open_records(settings), open_records(settings, role="cli")
    text = command.keys.create(Role.SERVICE, "new")
    began = time.monotonic()
    principal = asyncio.run(service.authenticate_async(text))
    assert principal is not None
    assert principal.name == "new"
    assert time.monotonic() - began < REFRESH_S
    command.keys.revoke(principal.key_id)
    began = time.monotonic()
    while service.authenticate(text) is not None:
        assert time.monotonic() - began < 2.5
        time.sleep(0.02)


def test_a_flood_of_well_formed_bad_keys_costs_few_refreshes(
    sqlite_settings: Settings, open_records: OpenRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(sqlite_settings)
    refreshes: list[float] = []
    cache = records._key_cache
    real = cache.refresh

    def refresh() -> None:
        refreshes.append(time.monotonic())
        real()

    monkeypatch.setattr(cache, "refresh", refresh)

    async def flood() -> float:
        began = time.monotonic()
        for _ in range(10):
            found = await asyncio.gather(*(records.authenticate_async(str(new_key_text())) for _ in range(200)))
            assert found == [None] * 200
        return time.monotonic() - began

    elapsed = asyncio.run(flood())
    assert len(refreshes) <= elapsed / 0.2 + 2
    assert cache._waiting == []


def test_a_waiting_key_is_let_go_at_close(sqlite_settings: Settings) -> None:
    records = Records.open(sqlite_settings, role="serve")

    async def wait() -> Principal | None:
        task = asyncio.create_task(records.authenticate_async(str(new_key_text())))
        await asyncio.sleep(0)
        await asyncio.to_thread(records.close)
        return await task

    assert asyncio.run(wait()) is None


def test_authentication_is_quick(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    """The bar is 0.1 ms of CPU per bad key; generous here, since other work shares the machine."""
    records = open_records(sqlite_settings)
    bad = str(new_key_text())
    began = time.thread_time()
    for _ in range(1_000):
        records.authenticate(bad)
    assert (time.thread_time() - began) / 1_000 < 1e-4
