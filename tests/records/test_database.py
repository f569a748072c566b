"""What must be in force before anything is recorded, and the migrations, on both databases."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import ConfigurationError, RecordsError
from app.records import database as module
from app.records.database import Database, failure_reason, insert, migrate, schema_version
from app.records.schema import schema_problems
from app.records.tables import SCHEMA_HEAD, audit_events, metadata
from app.settings import Settings


@pytest.fixture
def database(settings: Settings) -> Database:
    settings.state_dir.mkdir()
    return Database(settings)


def test_migrations_make_exactly_the_tables_and_take_them_away(database: Database) -> None:
    assert not database.has_events()
    migrate(database.writer)
    with database.reader.connect() as connection:
        assert list(schema_problems(connection)) == []
        assert schema_version(connection) == SCHEMA_HEAD
    migrate(database.writer)  # again: nothing to do
    assert not database.has_events()
    migrate(database.writer, "base")
    with database.reader.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
        assert schema_version(connection) is None
    migrate(database.writer)
    with database.reader.connect() as connection:
        assert list(schema_problems(connection)) == []
    database.dispose()


LATER = {
    "film_sources",
    "idempotency_keys",
    "api_key_lanes",
    "engine_choices",
}  # what the migrations after the first one make


def test_each_migration_goes_up_and_down(database: Database) -> None:
    """Down by one and up again, with rows of the older tables there."""
    migrate(database.writer, "0001")
    with database.writer.begin() as connection:
        assert not LATER & set(sa.inspect(connection).get_table_names())
        connection.execute(sa.text("INSERT INTO audit_events VALUES ('c', 0, 'at', 'kind', 'p', NULL, 'm', 'm')"))
    for _ in range(2):
        migrate(database.writer)
        with database.reader.connect() as connection:
            assert list(schema_problems(connection)) == []
        migrate(database.writer, "0001")
        with database.reader.connect() as connection:
            assert schema_version(connection) == "0001"
            assert not LATER & set(sa.inspect(connection).get_table_names())
            assert connection.execute(sa.text("SELECT chain_id FROM audit_events")).all() == [("c",)]
    database.dispose()


def test_the_newest_migration_is_the_head() -> None:
    folder = Path(module.__file__).parent / "migrations" / "versions"
    assert max(path.name[:4] for path in folder.glob("[0-9]*.py")) == SCHEMA_HEAD


def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    migrate(database.writer)
    with database.writer.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RecordsError) as caught:
        migrate(database.writer)
    assert caught.value.code == "schema_unknown"
    database.dispose()


def test_a_failed_migration_leaves_nothing_behind(database: Database) -> None:
    with database.writer.begin() as connection:
        connection.execute(sa.text("CREATE TABLE bundle_history (x INTEGER)"))  # the last table of the first migration
    with pytest.raises(sa.exc.SQLAlchemyError):
        migrate(database.writer)
    with database.reader.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["bundle_history"]
    database.dispose()


CHANGES = {
    "ALTER TABLE predictions ADD COLUMN extra TEXT": "predictions: columns differ",
    "DROP INDEX ix_predictions_at": "predictions: indexes differ",
    "DROP TABLE api_key_revocations": "table api_key_revocations is missing",
    "CREATE TABLE shadow (x INTEGER)": "table shadow is not ours",
    "CREATE VIEW v AS SELECT 1": "v is a trigger, view or rule",
    "DELETE FROM alembic_version": "alembic_version says []",
    "UPDATE alembic_version SET version_num = '0000'": "alembic_version says [('0000',)]",
}


def test_a_changed_schema_is_seen(database: Database) -> None:
    migrate(database.writer)
    for change, said in CHANGES.items():
        with database.writer.connect() as connection:
            connection.execute(sa.text(change))  # rolled back with the connection
            problems = list(schema_problems(connection))
        assert any(said in problem for problem in problems), (change, problems)
    with database.reader.connect() as connection:
        assert list(schema_problems(connection)) == []
    database.dispose()


def test_a_table_that_is_not_strict_is_seen(sqlite_settings: Settings) -> None:
    sqlite_settings.state_dir.mkdir()
    database = Database(sqlite_settings)
    migrate(database.writer)
    with database.writer.connect() as connection:
        statement = connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE name = 'api_key_revocations'"
        ).scalar_one()
        connection.exec_driver_sql("DROP TABLE api_key_revocations")
        connection.exec_driver_sql(statement.replace("STRICT", ""))
        problems = list(schema_problems(connection))
    assert problems == ["table api_key_revocations: options differ: unexpected [], missing [\"('strict',)\"]"]
    database.dispose()


def test_floats_integers_and_text_round_trip_exactly(database: Database) -> None:
    numbers = [0.1 + 0.2, 1e-320, 1.7976931348623157e308, -5e-324, 1.0, 123456789.123456789]
    table = sa.Table(
        "numbers",
        sa.MetaData(),
        sa.Column("f", audit_like_float()),
        sa.Column("i", sa.BigInteger),
        sa.Column("t", sa.Text),
    )
    rows = [{"f": f, "i": 2**53 + 1 + i, "t": 'é"\\u0000\\ \n\x7f\U0001f600'} for i, f in enumerate(numbers)]
    with database.writer.begin() as connection:
        table.create(connection)
        insert(connection, table, rows)
        found = [dict(row) for row in connection.execute(sa.select(table).order_by(table.c.i)).mappings()]
    assert found == rows
    assert [r["f"].hex() for r in found] == [f.hex() for f in numbers]
    database.dispose()


def audit_like_float() -> sa.types.TypeEngine[float]:
    return metadata.tables["predictions"].c.latency_ms.type


def test_sqlite_is_durable_strict_and_waits(sqlite_settings: Settings) -> None:
    sqlite_settings.state_dir.mkdir()
    database = Database(sqlite_settings)
    with database.writer.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA journal_size_limit").scalar() == 64 * 2**20
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1_500
    with database.reader.connect() as connection, pytest.raises(sa.exc.OperationalError, match="readonly"):
        connection.exec_driver_sql("CREATE TABLE t (x)")
    database.dispose()


def test_a_pragma_that_is_not_in_force_refuses_to_start(
    sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_settings.state_dir.mkdir()
    monkeypatch.setitem(module.SQLITE_PRAGMAS, "synchronous", ("NORMAL", 2))
    with pytest.raises(RecordsError) as caught:
        migrate(Database(sqlite_settings).writer)
    assert caught.value.code == "sqlite_pragma"


def test_writers_take_the_lock_at_once(sqlite_settings: Settings) -> None:
    sqlite_settings.state_dir.mkdir()
    settings = sqlite_settings.model_copy(update={"audit_wait_s": 0.1})
    database = Database(settings)
    with (
        database.writer.begin(),
        pytest.raises(sa.exc.OperationalError, match="locked") as caught,
        database.writer.begin(),
    ):
        pass
    assert failure_reason(caught.value) == "audit_store_locked"
    database.dispose()


def test_postgres_is_durable(postgres_settings: Settings) -> None:
    postgres_settings.state_dir.mkdir()
    database = Database(postgres_settings)
    with database.writer.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "1500ms"
    with database.reader.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="read-only"):
        connection.exec_driver_sql("CREATE TABLE t (x int)")
    database.dispose()


def test_a_postgres_role_with_asynchronous_commits_is_overruled(postgres_settings: Settings) -> None:
    postgres_settings.state_dir.mkdir()
    name = sa.make_url(str(postgres_settings.database_url)).database
    database = Database(postgres_settings)
    with database.writer.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with database.writer.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    database.dispose()


def test_a_postgres_setting_that_is_not_in_force_refuses(
    postgres_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres_settings.state_dir.mkdir()
    monkeypatch.setitem(module.POSTGRES_SETTINGS, "fsync", ("never",))
    with pytest.raises(RecordsError) as caught:
        migrate(Database(postgres_settings).writer)
    assert caught.value.code == "postgres_setting"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "mysql://h/d",
        "postgresql+psycopg2://h/d",
        "nonsense",
        "nonsense+driver://h/d",
    ],
)
def test_other_urls_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(Settings(state_dir=tmp_path, database_url=url))
    assert caught.value.code == "database_url"


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_file_system", lambda _: "nfs4")
    with pytest.raises(ConfigurationError, match="nfs4"):
        Database(Settings(state_dir=tmp_path))


def test_the_mount_table_is_read() -> None:
    assert module._file_system(Path("/proc/self")) == "proc"


def test_the_password_comes_from_a_file_only(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    url = "postgresql+pg8000://cxr@db/cxr"
    database = Database(Settings(state_dir=tmp_path, database_url=url, database_password_file=secret))
    assert database.url.password == "s3cret"
    assert "s3cret" not in str(database.url)
    with pytest.raises(ConfigurationError):
        Database(
            Settings(state_dir=tmp_path, database_url="postgresql+pg8000://u:p@db/cxr", database_password_file=secret)
        )
    with pytest.raises(ConfigurationError):
        Database(Settings(state_dir=tmp_path, database_url=url, database_password_file=tmp_path / "none"))


@pytest.mark.parametrize(
    ("errorname", "reason"),
    [
        ("SQLITE_FULL", "audit_store_full"),
        ("SQLITE_BUSY_SNAPSHOT", "audit_store_locked"),
        ("SQLITE_READONLY_DBMOVED", "audit_store_read_only"),
        ("SQLITE_NOTADB", "audit_store_damaged"),
        ("SQLITE_IOERR_FSYNC", "audit_store_unavailable"),
    ],
)
def test_failures_have_stable_words(errorname: str, reason: str) -> None:
    origin = sqlite3.OperationalError("text that never leaves the log")
    origin.sqlite_errorname = errorname
    assert failure_reason(sa.exc.OperationalError("INSERT", None, origin)) == reason
    assert failure_reason(origin) == reason
    assert failure_reason(OSError("x")) == "audit_store_unavailable"


def test_events_are_noticed(database: Database) -> None:
    migrate(database.writer)
    names = ("at", "kind", "payload_sha256", "key_id", "prev_mac", "mac")
    with database.writer.begin() as connection:
        insert(connection, audit_events, [{"chain_id": "c", "seq": 0} | dict.fromkeys(names, "x")])
    assert database.has_events()
    database.dispose()
