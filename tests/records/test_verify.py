"""Verify must see, and name, every change: each column of each row of each table, each kind of forgery, on both databases."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.domain import Role
from app.records import AuditEvent, EngineChoice, KeyRing, KeyUse, Records, VerifyReport, verify
from app.records.anchors import Anchors
from app.records.chain import GENESIS, Event, canonical, sha256_hex
from app.records.projection import PROJECTED
from app.records.tables import audit_events, audit_payloads
from app.records.verify import PROBLEMS_MAX
from app.settings import Settings
from tests.records.samples import DIGEST, JUDGED_AT, REF, SOURCE, event, prediction
from tests.support.postgres import Postgres, installed_postgres

TABLES = (audit_events, audit_payloads, *PROJECTED.values())
Place = tuple[str | None, int | None]


def fill(settings: Settings) -> None:
    """Two chains with every kind of row."""
    for _ in range(2):
        records = Records.open(settings, role="serve")
        for i in range(3):
            key = "abcdefgh" if i else None
            by_key = AuditEvent("predict", key, event(i).payload)
            records.record_now(by_key, prediction=prediction(i, key_id=key, confidence=None if i == 2 else 0.9))
        asyncio.run(records.record(event(7), prediction=prediction(7), source=SOURCE))
        use = KeyUse("abcdefgh", f"key-{records.chain_id}", DIGEST)
        for _ in range(2):
            once = AuditEvent("predict", "abcdefgh", event(8).payload)
            asyncio.run(
                records.record_once(
                    once, use, "f" * 64, JUDGED_AT, prediction=prediction(8, key_id="abcdefgh"), source=SOURCE
                )
            )
        records.keys.create(Role.SERVICE, "PACS", lane="stat")
        records.keys.create(Role.ADMIN, "somebody")
        records.keys.revoke(next(k.id for k in records.keys.list() if k.revoked_at is None))
        request = records.history.request_activation(REF, DIGEST, "PACS")
        records.history.write_outcome("failed", REF, DIGEST, who="PACS", request=request, reason="changed_file")
        records.choices.choose(
            EngineChoice(DIGEST, "this machine", "onnxruntime-int8", 1, {"onnxruntime-int8": 8.5}, "PACS")
        )
        records.record_now(AuditEvent("refused", "abcdefgh", {"code": "too_small"}))
        records.close()


@pytest.fixture(scope="session")
def filled_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(state_dir=tmp_path_factory.mktemp("filled") / "state")
    fill(settings)
    return settings


@pytest.fixture(scope="session")
def filled_postgres(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Settings:
    settings = Settings(state_dir=tmp_path_factory.mktemp("filled") / "state", database_url=postgres.new_database())
    fill(settings)
    return settings


def copied(request: pytest.FixtureRequest, state_dir: Path, backend: str) -> Settings:
    """Filled records of the test's own."""
    filled: Settings = request.getfixturevalue(f"filled_{backend}")
    shutil.copytree(filled.state_dir, state_dir)
    if filled.database_url is None:
        return Settings(state_dir=state_dir)
    server: Postgres = request.getfixturevalue("postgres")
    return Settings(state_dir=state_dir, database_url=server.new_database(template=filled.database_url))


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    settings = copied(request, tmp_path / "state", request.param)
    yield settings
    raw_engine(settings.database).dispose()


@pytest.fixture
def sqlite_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    settings = copied(request, tmp_path / "state", "sqlite")
    yield settings
    raw_engine(settings.database).dispose()


@cache
def raw_engine(url: str) -> sa.Engine:
    return sa.create_engine(url)


@contextmanager
def tampering(settings: Settings) -> Iterator[sa.Connection]:
    """Raw SQL with the foreign keys off: what an attacker with the database's password has."""
    engine = raw_engine(settings.database)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET session_replication_role = replica")
        yield connection
        connection.commit()


def places(report: VerifyReport) -> set[Place]:
    return {(problem.chain_id, problem.seq) for problem in report.problems}


def all_rows(settings: Settings, table: sa.Table) -> list[dict[str, Any]]:
    with tampering(settings) as connection:
        query = sa.select(table).order_by(table.c.chain_id, table.c.seq)
        return [dict(row) for row in connection.execute(query).mappings()]


def changed(value: Any, column: sa.Column[Any]) -> list[Any]:
    """Other values for a column: slight, and for a nullable one the other of null and not null."""
    if value is None:
        return [0.5 if isinstance(column.type, sa.Double) else 3 if isinstance(column.type, sa.BigInteger) else "x"]
    others: list[Any] = [None] if column.nullable else []
    if isinstance(value, str):
        last = "0" if value[-1:] != "0" else "1"
        middle = next((i for i in range(len(value) // 2, len(value)) if value[i].isalnum()), 0)
        other = "x" if value[middle] != "x" else "y"
        inside = [value[:middle] + other + value[middle + 1 :]] if value.startswith("{") else []  # still JSON
        return [*others, value[:-1] + last, *inside]
    if isinstance(value, float):
        return [*others, math.nextafter(value, math.inf)]
    return [*others, value + 1_000]


def set_value(connection: sa.Connection, table: sa.Table, key: dict[str, Any], name: str, value: Any) -> None:
    where = [table.c.chain_id == key["chain_id"], table.c.seq == key["seq"]]
    assert connection.execute(table.update().where(*where).values({name: value})).rowcount == 1
    connection.commit()


def test_untouched_records_verify(settings: Settings) -> None:
    report = verify(settings)
    assert (report.problems, report.events, report.chains, report.predictions) == ([], 28, 2, 10)
    skipped = ["the database's own integrity check was skipped: the extension amcheck is not installed"]
    assert report.notes == ([] if settings.database_url is None else skipped)


def one_of_each(settings: Settings, table: sa.Table) -> list[dict[str, Any]]:
    """A row of each kind; on PostgreSQL, where each verification takes longer, one of each table."""
    rows = all_rows(settings, table)
    if table in {audit_events, audit_payloads}:
        kinds = {(r["chain_id"], r["seq"]): r["kind"] for r in all_rows(settings, audit_events)}
        rows = list({kinds[row["chain_id"], row["seq"]]: row for row in rows}.values())
    return rows[1:2] if settings.database_url else rows if table in {audit_events, audit_payloads} else rows[:3]


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_every_column_of_every_kind_of_row(settings: Settings, table: sa.Table) -> None:
    """Change one value, verify, put it back."""
    tried = 0
    rows = one_of_each(settings, table)
    with tampering(settings) as connection:
        for row in rows:
            for column in table.columns:
                for value in changed(row[column.name], column):
                    set_value(connection, table, row, column.name, value)
                    found = places(verify(settings))
                    set_value(connection, table, row | {column.name: value}, column.name, row[column.name])
                    assert (row["chain_id"], row["seq"]) in found, (table.name, column.name, value, found)
                    tried += 1
    assert tried >= len(rows) * len(table.columns)
    assert verify(settings).problems == []


def delete(settings: Settings, chain_id: str, *seqs: int) -> None:
    with tampering(settings) as connection:
        for table in TABLES:
            connection.execute(table.delete().where(table.c.chain_id == chain_id, table.c.seq.in_(seqs)))


def last_seq(settings: Settings, chain_id: str) -> int:
    return max(int(row["seq"]) for row in all_rows(settings, audit_events) if row["chain_id"] == chain_id)


def chains(settings: Settings) -> list[str]:
    """The two chains of `fill`, the older one first."""
    starts = [row for row in all_rows(settings, audit_events) if row["seq"] == 0]
    return [str(row["chain_id"]) for row in sorted(starts, key=lambda row: str(row["at"]))]


def test_a_deleted_event_in_the_middle(settings: Settings) -> None:
    delete(settings, chains(settings)[0], 3, 4)
    assert places(verify(settings)) == {(chains(settings)[0], 3)}
    assert "missing: events 3 to 4" in verify(settings).problems[0].what


def test_a_deleted_tail(settings: Settings) -> None:
    old, new = chains(settings)
    last = last_seq(settings, new)
    delete(settings, new, last)
    assert (new, last) in places(verify(settings))
    delete(settings, old, *range(5, last + 1))
    assert (old, last) in places(verify(settings))


def test_a_deleted_tail_without_anchors_is_still_named_by_the_next_chain(settings: Settings) -> None:
    old, _ = chains(settings)
    (settings.state_dir / "audit_anchors.log").unlink()
    delete(settings, old, last_seq(settings, old))
    assert (old, last_seq(settings, old) + 1) in places(verify(settings))


def test_a_deleted_chain(settings: Settings) -> None:
    old, new = chains(settings)
    last = last_seq(settings, new)
    for chain in (old, new):
        everything = {table: [r for r in all_rows(settings, table) if r["chain_id"] == chain] for table in TABLES}
        delete(settings, chain, *range(last + 1))
        assert (chain, last) in places(verify(settings))
        with tampering(settings) as connection:
            for table, rows in everything.items():
                connection.execute(table.insert(), rows)
        assert verify(settings).ok
    (settings.state_dir / "audit_anchors.log").unlink()
    delete(settings, old, *range(last + 1))
    assert (old, last) in places(verify(settings))


def test_an_emptied_database(settings: Settings) -> None:
    old, new = chains(settings)
    last = last_seq(settings, new)
    with tampering(settings) as connection:
        for table in TABLES:
            connection.execute(table.delete())
    assert {(old, last), (new, last)} <= places(verify(settings))


def swap(settings: Settings, table: sa.Table, chain_id: str, one: int, two: int) -> None:
    with tampering(settings) as connection:
        for source, target in ((one, -1), (two, one), (-1, two)):
            connection.execute(
                table.update().where(table.c.chain_id == chain_id, table.c.seq == source).values(seq=target)
            )


@pytest.mark.parametrize(
    "tables", [TABLES, TABLES[:1], TABLES[1:2], TABLES[2:3]], ids=["all", "events", "payloads", "predictions"]
)
def test_two_swapped_rows(settings: Settings, tables: tuple[sa.Table, ...]) -> None:
    chain, _ = chains(settings)
    for table in tables:
        swap(settings, table, chain, 1, 2)
    assert {(chain, 1), (chain, 2)} <= places(verify(settings))


def forged(settings: Settings, ring: KeyRing, previous: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    """The event that would follow `previous`, signed with a ring."""
    made = Event(
        chain_id=previous["chain_id"],
        seq=previous["seq"] + 1,
        at=previous["at"],
        kind="predict",
        payload_sha256=sha256_hex(canonical(payload)),
        key_id=None,
        prev_mac=previous["mac"],
    )
    return made.row(str(ring.mac("audit_mac", made.mac_input(ring.current("audit_mac")))))


def test_forged_rows(settings: Settings, tmp_path: Path) -> None:
    """Appended events, signed with another ring or with a copied MAC, duplicated rows and rows without an event."""
    chain, _ = chains(settings)
    events = [row for row in all_rows(settings, audit_events) if row["chain_id"] == chain]
    foreign = KeyRing.open(tmp_path / "foreign" / "keyring.json", create=True)
    appended = forged(settings, foreign, events[-1], {"x": 1})
    with tampering(settings) as connection:
        connection.execute(audit_events.insert(), [appended])
        connection.execute(audit_payloads.insert(), [{"chain_id": chain, "seq": appended["seq"], "payload": '{"x":1}'}])
    assert (chain, appended["seq"]) in places(verify(settings))
    delete(settings, chain, appended["seq"])

    copied = appended | {"mac": events[-1]["mac"]}
    with tampering(settings) as connection:
        connection.execute(audit_events.insert(), [copied])
    assert (chain, appended["seq"]) in places(verify(settings))
    delete(settings, chain, appended["seq"])
    assert verify(settings).ok

    for table in PROJECTED.values():
        (row, *_) = [r for r in all_rows(settings, table) if r["chain_id"] == chain]
        unique = {"id": "zzzzzzzz", "position": 99, "pseudonym": "z"}
        copy = row | {"seq": 99} | {name: value for name, value in unique.items() if name in row}
        with tampering(settings) as connection:
            connection.execute(table.insert(), [copy])
        assert (chain, 99) in places(verify(settings)), table.name
        delete(settings, chain, 99)
        spoken = 0 if table.name != "predictions" else 9  # an event that does not speak of this table
        with tampering(settings) as connection:
            connection.execute(table.insert(), [copy | {"seq": spoken}])
        assert (chain, spoken) in places(verify(settings)), table.name
        with tampering(settings) as connection:
            connection.execute(table.delete().where(table.c.chain_id == chain, table.c.seq == spoken))
    assert verify(settings).ok


def test_a_suffix_hashed_anew_with_a_wrong_key(settings: Settings, tmp_path: Path) -> None:
    chain, _ = chains(settings)
    ring = KeyRing.open(settings.secrets_path / "keyring.json", create=False)
    wrong = KeyRing.open(tmp_path / "wrong" / "keyring.json", create=True)
    document = json.loads((tmp_path / "wrong" / "keyring.json").read_text())
    purpose = document["purposes"]["audit_mac"]  # the right id, another key
    purpose["keys"] = {ring.current("audit_mac"): purpose["keys"][purpose["current"]]}
    purpose["current"] = ring.current("audit_mac")
    (tmp_path / "wrong" / "keyring.json").write_text(json.dumps(document))
    wrong = KeyRing.open(tmp_path / "wrong" / "keyring.json", create=False)
    payload = json.loads(
        next(r["payload"] for r in all_rows(settings, audit_payloads) if (r["chain_id"], r["seq"]) == (chain, 3))
    )
    payload["predictions"]["label"] = "normal"
    with tampering(settings) as connection:
        rows = connection.execute(
            sa.select(audit_events).where(audit_events.c.chain_id == chain).order_by(audit_events.c.seq)
        ).mappings()
        events = [dict(row) for row in rows]
        where = {"chain_id": chain, "seq": 3}
        for table, values in (
            (audit_payloads, {"payload": canonical(payload).decode()}),
            (PROJECTED["predictions"], {"label": "normal"}),
            (audit_events, {"payload_sha256": sha256_hex(canonical(payload))}),
        ):
            connection.execute(table.update().filter_by(**where).values(**values))
        events[3]["payload_sha256"] = sha256_hex(canonical(payload))
        previous = events[2]["mac"]
        for row in events[3:]:
            made = Event(**{k: v for k, v in row.items() if k != "mac"} | {"prev_mac": previous})
            previous = str(wrong.mac("audit_mac", made.mac_input(wrong.current("audit_mac"))))
            connection.execute(
                audit_events.update()
                .where(audit_events.c.chain_id == chain, audit_events.c.seq == row["seq"])
                .values(prev_mac=made.prev_mac, mac=previous)
            )
    assert {(chain, row["seq"]) for row in events[3:]} <= places(verify(settings))


def test_a_shorter_chain_signed_with_the_right_key_is_missed_by_the_anchors(settings: Settings) -> None:
    """Even the ring's holder cannot cut and go on: the anchor says what stood there."""
    _, chain = chains(settings)
    ring = KeyRing.open(settings.secrets_path / "keyring.json", create=False)
    events = [row for row in all_rows(settings, audit_events) if row["chain_id"] == chain]
    delete(settings, chain, events[-1]["seq"])
    instead = forged(settings, ring, events[-2], {"x": 1})
    with tampering(settings) as connection:
        connection.execute(audit_events.insert(), [instead])
        connection.execute(audit_payloads.insert(), [{"chain_id": chain, "seq": instead["seq"], "payload": '{"x":1}'}])
    report = verify(settings)
    assert places(report) == {(chain, instead["seq"])}
    assert "names another event here" in report.problems[0].what


def test_an_event_signed_with_the_right_key_that_does_not_follow(settings: Settings) -> None:
    """Neither a wrong link, nor a chain without its start, passes because its MACs fit."""
    _, chain = chains(settings)
    ring = KeyRing.open(settings.secrets_path / "keyring.json", create=False)
    last = next(r for r in reversed(all_rows(settings, audit_events)) if r["chain_id"] == chain)
    unlinked = forged(settings, ring, last | {"mac": GENESIS}, {"x": 1})
    other = forged(settings, ring, {**last, "chain_id": "f" * 16, "seq": -1, "mac": GENESIS}, {"x": 1})
    with tampering(settings) as connection:
        connection.execute(audit_events.insert(), [unlinked, other])
        rows = [{"chain_id": r["chain_id"], "seq": r["seq"], "payload": '{"x":1}'} for r in (unlinked, other)]
        connection.execute(audit_payloads.insert(), rows)
    assert {(p.chain_id, p.seq): p.what for p in verify(settings).problems} == {
        (chain, unlinked["seq"]): "the event does not follow the one before it",
        ("f" * 16, 0): "the chain does not begin with its start",
    }


def without_amcheck_note(report: VerifyReport) -> list[str]:
    return [note for note in report.notes if "amcheck" not in note]


def test_an_unreadable_anchor_line_is_a_note(settings: Settings) -> None:
    with (settings.state_dir / "audit_anchors.log").open("ab") as file:
        file.write(b"v1 torn")
    report = verify(settings)
    assert report.ok
    assert without_amcheck_note(report) == ["1 lines of the anchor file cannot be read (a power cut can tear one)"]


def test_what_is_anchored_while_verifying_is_not_missed(
    sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service goes on: events that come after the anchors were read are in the snapshot or later, never missed."""
    records = Records.open(sqlite_settings, role="serve")
    real = Anchors.read

    def read(anchors: Anchors) -> Any:
        found = real(anchors)
        records.record_now(event(9), prediction=prediction(9))
        return found

    monkeypatch.setattr(Anchors, "read", read)
    report = verify(sqlite_settings)
    records.close()
    assert (report.problems, report.events) == ([], 30)


def test_a_damaged_index_of_the_database(sqlite_settings: Settings) -> None:
    """An index that lacks a row is found by the database's own check, though every row still fits its payload."""
    where = " WHERE image_height > 1000"
    steps = (
        f"UPDATE sqlite_master SET sql = sql || '{where}' WHERE name = 'ix_predictions_at'",
        "REINDEX ix_predictions_at",
        f"UPDATE sqlite_master SET sql = replace(sql, '{where}', '') WHERE name = 'ix_predictions_at'",
    )
    for step in steps:  # each on a connection of its own, which reads the schema anew
        with closing(sqlite3.connect(sqlite_settings.state_dir / "cxr.sqlite3", isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute(step)
    report = verify(sqlite_settings)
    assert any("missing from index ix_predictions_at" in p.what for p in report.problems), report.problems


def test_an_integer_stored_as_text(sqlite_settings: Settings) -> None:
    """SQLite would say that 512 and '512' are equal where a column has no type; STRICT refuses it, and verify sees its absence."""
    with tampering(sqlite_settings) as connection:
        with pytest.raises(sa.exc.IntegrityError):
            connection.exec_driver_sql("UPDATE predictions SET image_height = 'tall'")
        connection.rollback()
        sql = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'predictions'").scalar_one()
        loose = sql.replace("STRICT", "").replace("image_height INTEGER", "image_height TEXT")
        connection.exec_driver_sql("ALTER TABLE predictions RENAME TO old")
        connection.exec_driver_sql(loose)
        connection.exec_driver_sql("INSERT INTO predictions SELECT * FROM old")
        connection.exec_driver_sql("DROP TABLE old")
    report = verify(sqlite_settings)
    chain = chains(sqlite_settings)[0]
    assert {(chain, 1), (chain, 2), (chain, 3)} <= places(report)
    assert any("image_height differ" in p.what for p in report.problems)
    assert any(p.what.startswith("schema: table predictions: columns differ") for p in report.problems)


def test_text_that_is_not_utf_8_any_more_is_named(sqlite_settings: Settings) -> None:
    chain = chains(sqlite_settings)[0]
    with tampering(sqlite_settings) as connection:
        connection.exec_driver_sql(
            "UPDATE predictions SET label = CAST(x'ff00ff' AS TEXT) WHERE chain_id = ? AND seq = 2", (chain,)
        )
    assert (chain, 2) in places(verify(sqlite_settings))


@pytest.mark.slow
def test_a_damaged_file_of_postgres_is_seen_by_its_own_check(tmp_path: Path) -> None:
    """With the extension amcheck: an index that lost an entry on disk. Without it, verify says that it did not look."""
    with installed_postgres() as server:
        server.start()
        settings = Settings(state_dir=tmp_path / "state", database_url=server.new_database())
        fill(settings)
        with tampering(settings) as connection:
            connection.exec_driver_sql("CREATE EXTENSION amcheck")
            file = connection.exec_driver_sql("SELECT pg_relation_filepath('ix_predictions_at')").scalar_one()
        report = verify(settings)
        assert (report.problems, report.notes) == ([], [])
        raw_engine(settings.database).dispose()
        server.stop()
        data = bytearray((server.data / file).read_bytes())
        at = data.rindex(b"T", 0, data.rindex(b"Z"))  # inside the newest timestamp
        data[at] ^= 1  # in the key of an entry: it now sorts elsewhere
        (server.data / file).write_bytes(data)
        server.start()
        report = verify(settings)
        assert any("ix_predictions_at" in problem.what for problem in report.problems), report.problems


@pytest.mark.parametrize(
    "damage", ["ring missing", "ring foreign", "database missing", "database garbage", "table missing"]
)
def test_what_cannot_be_read_is_a_problem(sqlite_settings: Settings, tmp_path: Path, damage: str) -> None:
    file, secrets = sqlite_settings.state_dir / "cxr.sqlite3", sqlite_settings.secrets_path
    if damage == "ring missing":
        (secrets / "keyring.json").unlink()
    elif damage == "ring foreign":
        (secrets / "keyring.json").unlink()
        KeyRing.open(secrets / "keyring.json", create=True)
    elif damage == "database missing":
        file.unlink()
    elif damage == "database garbage":
        file.write_bytes(b"\xff" * 4096)
    else:
        with tampering(sqlite_settings) as connection:
            connection.exec_driver_sql("DROP TABLE audit_payloads")
    assert not verify(sqlite_settings).ok


def test_a_list_of_problems_is_bounded() -> None:
    report = VerifyReport()
    for i in range(3 * PROBLEMS_MAX):
        report.add("c", i, "x")
    assert len(report.problems) == PROBLEMS_MAX + 1
    assert str(report.problems[0]) == "c:0 x"
    assert str(report.problems[-1]) == f"more than {PROBLEMS_MAX} problems; the rest is not listed"


def test_verify_changes_no_file_and_makes_no_database(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Also on what a crash left, where any other look would write the log into the database."""
    records = Records.open(sqlite_settings, role="serve")
    records.record_now(event(9), prediction=prediction(9))
    image = tmp_path / "image"
    shutil.copytree(sqlite_settings.state_dir, image, ignore=shutil.ignore_patterns("*-shm"))
    records.close()
    before = {path.name: path.read_bytes() for path in image.iterdir() if path.is_file()}
    assert len(before["cxr.sqlite3-wal"]) > 0
    report = verify(Settings(state_dir=image))
    assert (report.problems, report.events) == ([], 30)
    assert {name: (image / name).read_bytes() for name in before} == before
    (image / "cxr.sqlite3").unlink()
    assert not verify(Settings(state_dir=image)).ok
    assert not (image / "cxr.sqlite3").exists()


def test_a_copy_verifies_elsewhere(sqlite_settings: Settings, tmp_path: Path) -> None:
    shutil.copytree(sqlite_settings.state_dir, tmp_path / "copy")
    assert verify(Settings(state_dir=tmp_path / "copy")).ok
