"""One database, SQLite or PostgreSQL: engines whose durability is asserted on every connection, migrations, bulk inserts.

SQLite (https://sqlite.org/pragma.html): WAL, `synchronous=FULL` (an fsync of the log in every commit), BEGIN IMMEDIATE for writers,
a local disk. PostgreSQL through pg8000: `synchronous_commit=on` per session, `fsync` and `full_page_writes` on at the server.
What is not in force refuses to start.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, Table, create_engine, event, inspect, make_url, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import ConfigurationError, RecordsError
from app.records.chain import canonical
from app.records.tables import SCHEMA_HEAD, audit_events
from app.settings import Settings

JOURNAL_SIZE_LIMIT_BYTES: Final = 64 * 2**20
# name -> (value set, value that must be read back)
SQLITE_PRAGMAS: Final[dict[str, tuple[str, object]]] = {
    "journal_mode": ("WAL", "wal"),
    "synchronous": ("FULL", 2),
    "fullfsync": ("ON", 1),  # macOS: a plain fsync leaves the data in the drive's cache
    "foreign_keys": ("ON", 1),
    "journal_size_limit": (str(JOURNAL_SIZE_LIMIT_BYTES), JOURNAL_SIZE_LIMIT_BYTES),
    "cell_size_check": ("ON", 1),
}
POSTGRES_SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    "synchronous_commit": ("on", "remote_apply"),
    "fsync": ("on",),
    "full_page_writes": ("on",),
}
_NETWORK_FILE_SYSTEMS: Final = ("nfs", "cifs", "smb", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "lustre")
_LOCK_KEY: Final = 0x6378_7274  # "cxrt": one exclusive act at a time on PostgreSQL


class Database:
    """Where the records live. `writer` connections may change it, `reader` connections never do.

    Args:
        settings: `database`, `database_password_file`, `audit_wait_s` (half of it is the longest wait for a lock).

    Raises:
        ConfigurationError: a URL that is not usable, or a password in two places.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = _url(settings)
        self._wait_ms = max(1, int(settings.audit_wait_s * 500))
        self._writer: Engine | None = None
        self._reader: Engine | None = None
        if self.is_sqlite:
            _require_local_file(self.url)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def writer(self) -> Engine:
        """No pool: each connection is opened, asserted and closed by its owner. Begins with BEGIN IMMEDIATE on SQLite."""
        if self._writer is None:
            self._writer = self._engine(read_only=False)
        return self._writer

    @property
    def reader(self) -> Engine:
        """A small pool of read-only connections."""
        if self._reader is None:
            self._reader = self._engine(read_only=True)
        return self._reader

    def dispose(self) -> None:
        for engine in (self._writer, self._reader):
            if engine is not None:
                engine.dispose()

    def has_events(self) -> bool:
        """Whether anything was ever recorded; False for a database that is not there yet."""
        if self.is_sqlite and not Path(str(self.url.database)).exists():
            return False
        with self.reader.connect() as connection:
            if not inspect(connection).has_table(audit_events.name):
                return False
            return connection.execute(select(audit_events.c.seq).limit(1)).first() is not None

    def _engine(self, *, read_only: bool) -> Engine:
        pool: dict[str, Any] = {"pool_size": 2, "max_overflow": 2} if read_only else {"poolclass": NullPool}
        if self.is_sqlite:
            # a reader opens the file read-only: it makes no file, and leaves one that is examined as it was
            mode = "ro" if read_only else "rwc"
            file = f"file:{quote(str(Path(str(self.url.database)).resolve()))}?mode={mode}"
            engine = create_engine(
                self.url,
                hide_parameters=True,
                creator=lambda: sqlite3.connect(file, uri=True, timeout=self._wait_ms / 1e3, check_same_thread=False),
                **pool,
            )
            event.listen(engine, "connect", _sqlite_reader if read_only else _sqlite_writer)
            event.listen(engine, "begin", _sqlite_begin("BEGIN" if read_only else "BEGIN IMMEDIATE"))
            return engine
        startup = {
            "synchronous_commit": "on",
            "lock_timeout": str(self._wait_ms),
            "statement_timeout": "0" if read_only else str(2 * self._wait_ms),
            "default_transaction_read_only": "on" if read_only else "off",
        }
        engine = create_engine(
            self.url,
            hide_parameters=True,
            pool_pre_ping=read_only,
            connect_args={"application_name": "cxr-triage", "startup_params": startup},
            **pool,
        )
        event.listen(engine, "connect", _postgres_session)
        return engine


def insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows that all have every column, in one statement.

    PostgreSQL gets them as one JSON array: a tenth of the time of one execution per row (44 against 606 us on this table's like).
    """
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(text(_insert_from_json(table)), {"rows": canonical(rows).decode("ascii")})
    else:
        connection.exec_driver_sql(_insert_values(table), rows)


@cache
def _insert_from_json(table: Table) -> str:
    columns = ", ".join(f'"{c.name}"' for c in table.columns)
    source = f"json_populate_recordset(NULL::{table.name}, CAST(:rows AS json))"
    return f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {source}"  # noqa: S608 - names from our own tables


@cache
def _insert_values(table: Table) -> str:
    columns = ", ".join(f'"{c.name}"' for c in table.columns)
    values = ", ".join(f":{c.name}" for c in table.columns)
    return f"INSERT INTO {table.name} ({columns}) VALUES ({values})"  # noqa: S608 - names from our own tables


def lock_exclusively(connection: Connection) -> None:
    """Until the transaction ends, no other process is inside this call. SQLite's BEGIN IMMEDIATE already says so."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})


def schema_version(connection: Connection) -> str | None:
    """The migration that the database is at; None before the first."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def migrate(engine: Engine, target: str = SCHEMA_HEAD) -> None:
    """Bring the schema up or down to `target` (a migration, or `base`) in one transaction; several processes may try at once.

    Raises:
        RecordsError: schema_unknown, a database written by a newer version of this software.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # others may be at it; each takes its turn
            connection.execute(text("SET LOCAL lock_timeout = '60s'"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        lock_exclusively(connection)
        version = schema_version(connection)
        if version == target:
            return
        _run_alembic(connection, version, target)


def _run_alembic(connection: Connection, version: str | None, target: str) -> None:
    from alembic import command  # noqa: PLC0415 - 0.4 s of import, needed only when there is something to migrate
    from alembic.config import Config  # noqa: PLC0415 - as above
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    order = ["base", *reversed([s.revision for s in ScriptDirectory.from_config(config).walk_revisions()])]
    if version is not None and version not in order:
        raise RecordsError(
            "schema_unknown", f"the database is at migration {version!r}, which this version does not know"
        )
    if order.index(target) < order.index(version or "base"):
        command.downgrade(config, target)
    else:
        command.upgrade(config, target)


def failure_reason(error: BaseException) -> str:
    """A stable word for why the database failed; the text of the error is for the log only."""
    if isinstance(error, RecordsError):
        return error.code
    origin = error.orig if isinstance(error, SQLAlchemyError) and hasattr(error, "orig") else error
    name = getattr(origin, "sqlite_errorname", "") or ""
    if isinstance(origin, sqlite3.Error):
        for prefix, reason in (
            ("SQLITE_FULL", "audit_store_full"),
            ("SQLITE_BUSY", "audit_store_locked"),
            ("SQLITE_LOCKED", "audit_store_locked"),
            ("SQLITE_READONLY", "audit_store_read_only"),
            ("SQLITE_CORRUPT", "audit_store_damaged"),
            ("SQLITE_NOTADB", "audit_store_damaged"),
        ):
            if name.startswith(prefix):
                return reason
    return "audit_store_unavailable"


def _url(settings: Settings) -> URL:
    try:
        url = make_url(settings.database)
        driver = url.get_dialect().driver
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError("database_url", "CXR_DATABASE_URL is not a database URL that is supported") from error
    if (url.get_backend_name(), driver) not in {("sqlite", "pysqlite"), ("postgresql", "pg8000")}:
        raise ConfigurationError("database_url", "CXR_DATABASE_URL must begin with sqlite:/// or postgresql+pg8000://")
    if driver == "pg8000" and find_spec(driver) is None:
        raise ConfigurationError("database_driver", "PostgreSQL needs pg8000: install cxr-triage[postgres]")
    if settings.database_password_file is None:
        return url
    if url.password is not None:
        raise ConfigurationError("database_url", "CXR_DATABASE_URL and CXR_DATABASE_PASSWORD_FILE both give a password")
    try:
        return url.set(password=settings.database_password_file.read_text().strip())
    except OSError as error:
        raise ConfigurationError("database_password_file", f"the file cannot be read: {error.strerror}") from error


def _require_local_file(url: URL) -> None:
    name = url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        raise ConfigurationError("database_url", "SQLite needs a file: sqlite:////absolute/path")
    path = Path(name)
    kind = _file_system(path.parent)
    if kind.startswith(_NETWORK_FILE_SYSTEMS):
        raise ConfigurationError("database_url", f"{path} lies on {kind}; SQLite needs a local disk, or use PostgreSQL")


def _file_system(folder: Path) -> str:
    """The type of the file system that holds a folder, from Linux' mount table; empty where there is none."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    folder = folder.resolve()
    found = ("", "")
    for line in lines:
        _, mount, kind, *_ = line.split(" ")
        point = mount.replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def _sqlite_writer(connection: Any, _: ConnectionPoolEntry) -> None:
    """Set the pragmas and read each one back. BEGIN is ours from here on."""
    connection.isolation_level = None
    for name, (value, expected) in SQLITE_PRAGMAS.items():
        connection.execute(f"PRAGMA {name}={value}").fetchall()
        (found,) = connection.execute(f"PRAGMA {name}").fetchone()
        if found != expected:
            raise RecordsError("sqlite_pragma", f"PRAGMA {name} is {found!r}, must be {expected!r}")


def _sqlite_reader(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA cell_size_check=ON")


def _sqlite_begin(statement: str) -> Any:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def _postgres_session(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for name, accepted in POSTGRES_SETTINGS.items():
        cursor.execute(f"SHOW {name}")
        row = cursor.fetchone()
        if row is None or row[0] not in accepted:
            raise RecordsError("postgres_setting", f"{name} is {row and row[0]!r}, must be {accepted[0]!r}")
    cursor.close()
    connection.rollback()
